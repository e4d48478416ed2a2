"""What all verbs share: a command line in, options out, a result printed."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from llmjax.cli.arguments import FLAGS, Words, check_positionals, split
from llmjax.cli.help import help_text
from llmjax.limits import number_problems
from llmjax.run.config.build import ConfigError
from llmjax.run.config.fields import flag
from llmjax.run.config.overrides import override
from llmjax.storage.json_documents import json_text

Options = TypeVar("Options")


@dataclass(frozen=True)
class Parsed(Generic[Options]):
    """A command line that was understood."""

    positionals: tuple[str, ...]
    options: Options
    flags: frozenset[str]


@dataclass(frozen=True)
class Verb(Generic[Options]):
    """A verb of fixed options.

    Attributes:
      usage: its command line.
      about: what it does.
      names: of its positional words.
      options: the defaults, a dataclass; its fields are the options.
      single: names of lists that take one word at a time.
    """

    usage: str
    about: str
    names: tuple[str, ...]
    options: Options
    single: tuple[str, ...] = ()

    def parse(self, argv: Sequence[str]) -> Parsed[Options] | None:
        """Options of this command line; None where it asked for help, which is then printed.

        Raises:
          ConfigError: every mistake in it.
        """
        words = split(argv, type(self.options), single=self.single)
        if "help" in words.flags:
            print(help_text(self.usage, self.about, FLAGS, self.options), end="")
            return None
        positionals, options = checked(words, self.names, self.usage, self.options)
        if problems := list(number_problems(options)):
            named = (problem.partition(":") for problem in problems)
            raise ConfigError([f"{flag((name,))}:{said}" for name, _, said in named])
        return Parsed(positionals, options, words.flags)


def checked(
    words: Words, names: Sequence[str], usage: str, options: Options
) -> tuple[tuple[str, ...], Options]:
    """Positionals and changed options; the mistakes of both are told together.

    Raises:
      ConfigError: every mistake.
    """
    problems: list[str] = []
    positionals: tuple[str, ...] = ()
    try:
        options = override(options, words.overrides)
    except ConfigError as error:
        problems += error.problems
    try:
        positionals = check_positionals(words, names, usage)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return positionals, options


def print_json(result: Mapping[str, Any]) -> None:
    """The result as one line of JSON; numbers that JSON does not have become null.

    It is ASCII where stdout is not UTF-8: what such a stream would write for a character it does
    not have is no JSON.
    """
    plain = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    print(json_text(_finite(result), ascii_only=plain), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:  # NaN and the infinities
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
