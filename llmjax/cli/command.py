"""The driver of commands: parses the command line, runs the command, prints its output."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from llmjax.cli.arguments import ALL, FLAGS, Words, check_positionals, split
from llmjax.cli.help import all_fields, help_text, main_fields
from llmjax.errors import UserError
from llmjax.limits import number_problems
from llmjax.run.config.build import ConfigError
from llmjax.run.config.fields import flag
from llmjax.run.config.overrides import Override, override
from llmjax.run.telemetry.program import Program
from llmjax.storage.json_documents import json_text

Options = TypeVar("Options")
Overrides: TypeAlias = tuple[Override, ...]


class Output(NamedTuple):
    """The output of a command.

    Attributes:
      data: the result as plain data, for --json.
      text: the result for people; printed with str().
      is_log: whether `text` goes to stderr, even with --json, as stdout holds other data.
    """

    data: Mapping[str, Any]
    text: object
    is_log: bool = False


@dataclass(frozen=True)
class NoOptions:
    """The options of a command that has none."""


@dataclass(frozen=True)
class Call(Generic[Options]):
    """A valid command line.

    Attributes:
      words: the positional words, without those that are part of the command's name.
      options: the options' values.
      flags: the flags that are set.
      program: this process, where the command is all that it does.
    """

    words: tuple[str, ...]
    options: Options
    flags: frozenset[str] = frozenset()
    program: Program | None = None

    @property
    def as_json(self) -> bool:
        """Whether to print the result as JSON."""
        return "json" in self.flags


@dataclass(frozen=True)
class Command(Generic[Options]):
    """A command of the command line.

    Attributes:
      about: what it does, in a sentence or two.
      positionals: names of its positional words, in capitals; a lower-case one is a literal part of
        the command's name, and one that ends in `...` stands for one or more.
      options: the dataclass whose fields are its options, shared with the function that it calls.
      run: runs it. Returns None if it has printed everything itself.
      usage: the options in its usage line.
      single: lists that take one word at a time.
      flags: further flags, with their help.
      notes: help shown before the options, where all are shown.
      shown: dotted names of the options that `--help` shows; none: all.
      aliases: short name of an option -> its dotted name.
      expand: replaces options and overrides that are not a field's value, before any override.
      defaults: makes the default options from the first positional word that is not part of the
        name; None for those of the dataclass.
      validated: whether overriding the options checks their values, as it does for a run's config.
      check: returns a line for each invalid value, beyond types and ranges.
      finish: applies the flags to the options, and makes further checks.
      compiles: whether it compiles programs, which are then cached on disk.
      memory: advice for when memory runs out; None for the advice on using a model.
    """

    about: str
    positionals: tuple[str, ...]
    options: Callable[[], Options]
    run: Callable[[Call[Options]], Output | None]
    usage: str = "[--option value ...]"
    single: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    shown: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    expand: Callable[[Options, Overrides], tuple[Options, Overrides]] = lambda options, words: (
        options,
        words,
    )
    defaults: Callable[[str], Options] | None = None
    validated: bool = False
    check: Callable[[Options], Sequence[str]] = lambda options: ()
    finish: Callable[[Options, frozenset[str]], Options] = lambda options, flags: options
    compiles: bool = True
    memory: str | None = None


def run_command(
    name: str, command: Command[Any], argv: Sequence[str], program: Program | None = None
) -> None:
    """Runs a command with the words after its name, and prints its output or its help.

    Args:
      name, command: which command.
      argv: the words after its name.
      program: this process, where the command is all that it does.

    Raises:
      UserError: the command line is wrong, or the command itself raises it.
    """
    usage = " ".join(["llmjax", name, *command.positionals, command.usage]).rstrip()
    flags = FLAGS | dict(command.flags)
    words = split(argv, command.options, flags, command.single, command.aliases)
    if "help" in words.flags:
        options = _options_help(command, _defaults(command, words), words.topic)
        if words.topic not in ("", ALL):
            print("\n".join(options).strip())
        else:
            notes = "" if command.shown and not words.topic else command.notes
            print(help_text(usage, command.about, flags, notes, options), end="")
        return
    call = _parse(name, command, words, usage)
    if command.compiles:
        from llmjax.parallel.compilation import enable_compilation_cache

        enable_compilation_cache()
    output = command.run(replace(call, program=program))
    if output is None:
        return
    if output.is_log:
        print(output.text, file=sys.stderr)
    elif call.as_json:
        print_json(output.data)
    else:
        print(output.text)


def _options_help(command: Command[Options], options: Options, topic: str) -> Iterator[str]:
    if topic == ALL or not (topic or command.shown):
        return all_fields(options)
    return (
        all_fields(options, topic)
        if topic
        else main_fields(options, command.shown, command.aliases)
    )


def _defaults(command: Command[Options], words: Words) -> Options:
    literals = sum(word.islower() for word in command.positionals)
    if command.defaults is not None and words.positionals[literals:]:
        return command.defaults(words.positionals[literals])
    return command.options()


def _parse(name: str, command: Command[Options], words: Words, usage: str) -> Call[Options]:
    """Checks positional words and options together.

    Raises:
      ConfigError: all mistakes.
      UserError: a word of the command's name is wrong, or its defaults cannot be read.
    """
    literals = [word for word in command.positionals if word.islower()]
    for index, literal in enumerate(literals):
        if words.positionals[index : index + 1] != (literal,):
            word = " ".join(words.positionals[index : index + 1]) or "nothing"
            raise UserError(f"{name} {word}", "no such command", f"usage: {usage}")
    options, problems = _defaults(command, words), list[str]()
    try:
        options = override(*command.expand(options, words.overrides), command.aliases)
    except ConfigError as error:
        problems += error.problems
    try:
        check_positionals(words, command.positionals, usage)
    except ConfigError as error:
        problems += error.problems
    if not problems and not command.validated:
        lines = list(number_problems(options)) or command.check(options)
        parts = (line.partition(":") for line in lines)
        problems = [f"{flag((field,))}:{reason}" for field, _, reason in parts]
    if problems:
        raise ConfigError(problems)
    options = command.finish(options, words.flags)
    return Call(words.positionals[len(literals) :], options, words.flags)


def print_json(result: Mapping[str, Any]) -> None:
    """Prints the result as one line of JSON, with NaN and infinities as null.

    It is ASCII if stdout is not UTF-8, as that stream's escapes would not be valid JSON.
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
