"""`llmjax completion`."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from llmjax.cli.arguments import FLAGS
from llmjax.cli.command import Call, Command, NoOptions, Output
from llmjax.cli.main import find_command
from llmjax.cli.registry import COMMANDS
from llmjax.errors import UserError
from llmjax.run.config.fields import rows
from llmjax.run.config.files import presets


class Completions(NamedTuple):
    """What can follow a command's name.

    Attributes:
      options: option, with the dashes -> its meaning.
      words: positional words known beforehand; files and folders are completed besides.
    """

    options: Mapping[str, str]
    words: tuple[str, ...]


def run(call: Call[NoOptions]) -> Output:
    """Prints a script for the shell."""
    shell = call.words[0]
    if shell not in SHELLS:
        raise UserError(shell, "has no completion script", f"choose {', '.join(SHELLS)}")
    script = "\n".join(SHELLS[shell](completions())) + "\n"
    return Output({"shell": shell, "script": script}, script.rstrip("\n"))


def completions() -> dict[str, Completions]:
    """The completions of every command."""
    return {name: _of_command(name) for name in COMMANDS}


def _of_command(name: str) -> Completions:
    command = find_command(name)
    options = {row.flag: row.doc for row in rows(command.options())}
    options |= {f"--{flag}": meaning for flag, meaning in (FLAGS | dict(command.flags)).items()}
    words = tuple(presets()) if "CONFIG" in command.positionals else ()
    if "SHELL" in command.positionals:
        words = tuple(SHELLS)
    return Completions(options, words + tuple(w for w in command.positionals if w.islower()))


def _bash(commands: Mapping[str, Completions]) -> Iterator[str]:
    yield "# llmjax completion bash > ~/.local/share/bash-completion/completions/llmjax"
    yield "_llmjax() {"
    yield '  local word=${COMP_WORDS[COMP_CWORD]} options="" words=""'
    yield "  if ((COMP_CWORD == 1)); then"
    yield f'    COMPREPLY=($(compgen -W {shlex.quote(" ".join(commands))} -- "$word"))'
    yield "    return"
    yield "  fi"
    yield "  case ${COMP_WORDS[1]} in"
    for name, (options, words) in commands.items():
        yield f'    {name}) options="{" ".join(options)}" words="{" ".join(words)}" ;;'
    yield "  esac"
    yield "  if [[ $word == -* ]]; then"
    yield '    COMPREPLY=($(compgen -W "$options" -- "$word"))'
    yield "  else"
    yield '    COMPREPLY=($(compgen -f -W "$words" -- "$word"))'
    yield "    compopt -o filenames"
    yield "  fi"
    yield "}"
    yield "complete -F _llmjax llmjax"


def _zsh(commands: Mapping[str, Completions]) -> Iterator[str]:
    def described(meanings: Mapping[str, str]) -> str:
        items = (f"{word.replace(':', chr(92) + ':')}:{text}" for word, text in meanings.items())
        return " ".join(map(shlex.quote, items))

    yield "#compdef llmjax"
    yield '# llmjax completion zsh > "${fpath[1]}/_llmjax"'
    yield "_llmjax() {"
    yield "  local -a options choices"
    yield "  if ((CURRENT == 2)); then"
    yield f"    choices=({described({name: COMMANDS[name].summary for name in commands})})"
    yield "    _describe command choices"
    yield "    return"
    yield "  fi"
    yield "  case $words[2] in"
    for name, (options, words) in commands.items():
        yield f"    {name})"
        yield f"      options=({described(options)})"
        yield f"      choices=({' '.join(map(shlex.quote, words))}) ;;"
    yield "  esac"
    yield "  if [[ $PREFIX == -* ]]; then"
    yield "    _describe -o option options"
    yield "  else"
    yield "    (($#choices)) && _describe word choices"
    yield "    _files"
    yield "  fi"
    yield "}"
    yield 'if [ "$funcstack[1]" = "_llmjax" ]; then _llmjax "$@"; else compdef _llmjax llmjax; fi'


def _fish(commands: Mapping[str, Completions]) -> Iterator[str]:
    yield "# llmjax completion fish > ~/.config/fish/completions/llmjax.fish"
    for name in commands:
        about = shlex.quote(COMMANDS[name].summary)
        yield f"complete -c llmjax -n __fish_use_subcommand -f -a {name} -d {about}"
    for name, (options, words) in commands.items():
        start = f"complete -c llmjax -n '__fish_seen_subcommand_from {name}'"
        if words:
            yield f"{start} -a {shlex.quote(' '.join(words))}"
        for option, meaning in options.items():
            yield f"{start} -l {option[2:]} -d {_fish_quoted(meaning)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Mapping[str, Completions]], Iterator[str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}

COMPLETION = Command(
    about="Prints a script that completes commands, options and presets in bash, zsh or fish. Its "
    "first comment says where it belongs.",
    positionals=("SHELL",),
    usage="",
    options=NoOptions,
    run=run,
    compiles=False,
)
