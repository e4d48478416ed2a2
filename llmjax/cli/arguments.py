"""Parsing of a command line into positionals, options and flags.

The options, and how many words each takes, are those of a dataclass.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from llmjax.run.config.build import ConfigError
from llmjax.run.config.fields import annotation_at, element, hints, variants
from llmjax.run.config.overrides import Override, is_list

ALL = "all"
"""After --help: every field."""
SWITCH = ("true", "false", "yes", "no", "on", "off", "1", "0")
FLAGS = {
    "json": "Print the result as one JSON object on the last line of stdout.",
    "debug": "Show the traceback when something fails.",
    "help": "Show this text.",
}


@dataclass(frozen=True)
class Words:
    """A parsed command line."""

    positionals: tuple[str, ...]
    overrides: tuple[Override, ...]
    flags: frozenset[str]
    topic: str = ""
    """After `--help`: ALL, a section, or nothing."""


def split(
    argv: Sequence[str],
    cls: Any,
    flags: Collection[str] = FLAGS,
    single: Collection[str] = (),
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Words:
    """Splits `argv` into positionals, options and flags.

    A list takes all words up to the next option, and may be repeated; a switch takes true, false or
    the like if that follows, and `--no-SWITCH` is false; any other option takes one word. Options
    begin with `--` and a letter: `--1` and `---` are values. After `--` alone all words are
    positional.

    Args:
      argv: the words after the command's name.
      cls: the dataclass whose dotted field names are the options.
      flags: options that take no word and are not fields.
      single: lists that take one word at a time, so that positionals may follow.
      aliases: short names of fields -> dotted names.

    Raises:
      ConfigError: an option has no value, and the next word is not an option.
    """
    words, positionals = list(argv), []
    overrides: dict[tuple[str, ...], Override] = {}
    seen: set[str] = set()
    topic = ""
    while words:
        word = words.pop(0)
        if word == "--":
            positionals += words
            break
        if word == "-h":
            word = "--help"
        if not _is_option(word):
            positionals.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in flags and not equals:
            seen.add(name)
            if name == "help" and words and words[0] in help_topics(cls):
                topic = words.pop(0)
            continue
        name = aliases.get(name, name)
        name, equals, value = _without_no(cls, name, equals, value)
        path = Override(name, ()).path
        annotation = annotation_at(cls, path)
        repeatable = is_list(annotation)
        values = (value,) if equals else _take(words, annotation, repeatable and name not in single)
        if not values and annotation not in (None, bool):
            _check_next(word, words, cls, flags)
        earlier = overrides[path].words if repeatable and path in overrides else ()
        overrides[path] = Override(name, (*earlier, *values))
    return Words(tuple(positionals), tuple(overrides.values()), frozenset(seen), topic)


def help_topics(cls: Any) -> tuple[str, ...]:
    """What may follow `--help`: ALL, and the fields that are sections or lists of sections."""
    sections = (name for name, annotation in hints(cls).items() if variants(annotation))
    lists = (name for name, annotation in hints(cls).items() if element(annotation) is not None)
    return (ALL, *sections, *lists)


def _without_no(cls: Any, name: str, equals: str, value: str) -> tuple[str, str, str]:
    """`--no-SWITCH` as `--SWITCH=false`; other options unchanged."""
    switch = name.removeprefix("no-")
    if switch != name and not equals and annotation_at(cls, Override(switch, ()).path) is bool:
        return switch, "=", "false"
    return name, equals, value


def _is_option(word: str) -> bool:
    return word == "--" or (word.startswith("--") and word[2:3].isalpha())


def _check_next(option: str, words: Sequence[str], cls: Any, flags: Collection[str]) -> None:
    """Raises ConfigError if the next word looks like an option but is none."""
    if not words or words[0] == "--":
        return
    name = words[0][2:].partition("=")[0]
    if name not in flags and annotation_at(cls, Override(name, ()).path) is None:
        problem = f"{option}: has no value, and {words[0]} is not an option"
        raise ConfigError([f"{problem}; if it is the value, write {option}={words[0]}"])


def _take(words: list[str], annotation: Any, greedy: bool) -> tuple[str, ...]:
    """Removes from `words` the values of an option of this type, and returns them."""
    count = 0
    if greedy:
        while count < len(words) and not _is_option(words[count]):
            count += 1
    elif words and not _is_option(words[0]):
        count = 1 if annotation is not bool or words[0].lower() in SWITCH else 0
    values = tuple(words[:count])
    del words[:count]
    return values


def check_positionals(words: Words, names: Sequence[str], usage: str) -> tuple[str, ...]:
    """The positional words, one for each of `names`; one or more for one that ends in `...`.

    Raises:
      ConfigError: there are fewer or more.
    """
    positionals = words.positionals
    if any(name.endswith("...") for name in names) and len(positionals) >= len(names):
        return positionals
    if missing := names[len(positionals) :]:
        raise ConfigError([f"{' and '.join(missing)}: missing; usage: {usage}"])
    if extra := positionals[len(names) :]:
        option = next((w.lstrip("-") for w in extra if w.startswith("-") or "=" in w), None)
        hint = f"did you mean --{option}?" if option else f"usage: {usage}"
        raise ConfigError([f"{' '.join(extra)}: unexpected; {hint}"])
    return positionals
