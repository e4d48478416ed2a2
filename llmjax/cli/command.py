"""A command: its words and options in, a call, its output printed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from llmjax.cli.arguments import FLAGS, Words, check_positionals, split
from llmjax.cli.help import help_text
from llmjax.errors import UserError
from llmjax.limits import number_problems
from llmjax.run.config.build import ConfigError
from llmjax.run.config.fields import flag
from llmjax.run.config.overrides import override
from llmjax.storage.json_documents import json_text

Options = TypeVar("Options")


class Output(NamedTuple):
    """What a command prints.

    Attributes:
      data: the result as plain data, for --json.
      text: the result for a person.
      is_log: whether `text` goes to stderr, and --json prints nothing: stdout holds other data.
    """

    data: Mapping[str, Any]
    text: object
    is_log: bool = False


@dataclass(frozen=True)
class Call(Generic[Options]):
    """A command line that was understood.

    Attributes:
      words: the positional words, without those that are part of the command's name.
      options: the options' values.
      flags: those that were given.
    """

    words: tuple[str, ...]
    options: Options
    flags: frozenset[str] = frozenset()

    @property
    def as_json(self) -> bool:
        """Whether the result is to be printed as JSON."""
        return "json" in self.flags


@dataclass(frozen=True)
class Command(Generic[Options]):
    """What the command line needs to know about a command.

    Attributes:
      about: what it does, in a sentence or two.
      positionals: names of its positional words, in capitals; a lower-case one must be given as it
        is and belongs to the command's name.
      options: the dataclass whose fields are its options, shared with the function that it calls.
      run: makes the call. Returns None where it has printed everything itself.
      usage: the options that its usage line shows.
      single: lists that take one word at a time.
      flags: more options without a word, with their meanings.
      notes: help shown before the options.
      defaults: options before those of the command line, from the positional words; None for the
        dataclass's own.
      check: a line for every wrong value, beside those that its type and range forbid.
      finish: what the flags change in the options, and further checks.
      compiles: whether it runs compiled programs, which are then cached on disk.
      memory: how to need less memory, for when it runs out; None for advice on using a model.
    """

    about: str
    positionals: tuple[str, ...]
    options: Callable[[], Options]
    run: Callable[[Call[Options]], Output | None]
    usage: str = "[--option value ...]"
    single: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    defaults: Callable[[str], Options] | None = None
    check: Callable[[Options], Sequence[str]] = lambda options: ()
    finish: Callable[[Options, frozenset[str]], Options] = lambda options, flags: options
    compiles: bool = True
    memory: str | None = None


def run_command(name: str, command: Command[Any], argv: Sequence[str]) -> None:
    """Runs a command with the words after its name, and prints its output or its help.

    Raises:
      UserError: mistakes in the command line, or what the command itself raises.
    """
    usage = " ".join(["llmjax", name, *command.positionals, command.usage]).rstrip()
    flags = FLAGS | dict(command.flags)
    words = split(argv, command.options, flags, command.single)
    if "help" in words.flags:
        options = _defaults(command, words)
        print(help_text(usage, command.about, flags, options, command.notes), end="")
        return
    call = _parse(name, command, words, usage)
    if command.compiles:
        from llmjax.parallel.compilation import enable_compilation_cache

        enable_compilation_cache()
    output = command.run(call)
    if output is None:
        return
    if output.is_log:
        print(output.text, file=sys.stderr)
    elif call.as_json:
        print_json(output.data)
    else:
        print(output.text)


def _defaults(command: Command[Options], words: Words) -> Options:
    if command.defaults is not None and words.positionals:
        return command.defaults(words.positionals[0])
    return command.options()


def _parse(name: str, command: Command[Options], words: Words, usage: str) -> Call[Options]:
    """Positional words and options; the mistakes of both are reported together.

    Raises:
      ConfigError: every mistake.
      UserError: a word of the command's name is wrong, or its defaults cannot be read.
    """
    fixed = [word for word in command.positionals if word.islower()]
    for place, word in enumerate(fixed):
        if words.positionals[place : place + 1] != (word,):
            given = " ".join(words.positionals[place : place + 1]) or "nothing"
            raise UserError(f"{name} {given}", "no such command", f"usage: {usage}")
    options, problems = _defaults(command, words), list[str]()
    try:
        options = override(options, words.overrides)
    except ConfigError as error:
        problems += error.problems
    try:
        check_positionals(words, command.positionals, usage)
    except ConfigError as error:
        problems += error.problems
    if not problems and command.defaults is None:
        wrong = list(number_problems(options)) or command.check(options)
        named = (line.partition(":") for line in wrong)
        problems = [f"{flag((field,))}:{reason}" for field, _, reason in named]
    if problems:
        raise ConfigError(problems)
    options = command.finish(options, words.flags)
    return Call(words.positionals[len(fixed) :], options, words.flags)


def print_json(result: Mapping[str, Any]) -> None:
    """The result as one line of JSON; numbers that JSON does not have become null.

    It is ASCII where stdout is not UTF-8: what such a stream writes for a character that it does
    not have is not JSON.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(json_text(_finite(result), ascii_only="utf" not in encoding.lower()), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:  # NaN and the infinities
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
