"""Help texts: every field of a dataclass with its type, docstring and default."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from llmjax.cli.arguments import ALL, help_topics
from llmjax.cli.terminal import terminal_width
from llmjax.run.config.build import plain
from llmjax.run.config.fields import Row, element, kind, rows, type_name, variants
from llmjax.run.config.options import option_fields

INDENT = " " * 8


def help_text(
    usage: str, about: str, flags: Mapping[str, str], notes: str, options: Iterable[str]
) -> str:
    """The help of a command.

    Args:
      usage: the usage line.
      about: what it does, in a sentence or two.
      flags: options that take no word, with their help.
      notes: lines between the flags and the options.
      options: lines about the options.
    """
    lines = [f"usage: {usage}", "", *textwrap.wrap(about, terminal_width()), ""]
    for name, meaning in flags.items():
        lines += _entry(f"--{name}", meaning)
    if notes:
        lines += ["", *notes.rstrip().split("\n")]
    return "\n".join([*lines, *options]) + "\n"


def all_fields(value: Any, section: str | None = None) -> Iterator[str]:
    """The fields of a dataclass: those of the value itself first, its own before inherited ones,
    then those of its sections, each under its name; or those of one section.

    The values are shown as the defaults.
    """
    order = [field.name for field in option_fields(type(value))]
    listed = sorted(rows(value), key=lambda row: order.index(row.path[0]))
    parts = dict.fromkeys(row.path[0] for row in listed if len(row.path) > 1)
    for part in ("", *parts) if section is None else (section,):
        yield ""
        if part:
            yield from textwrap.wrap(f"{part}: {_about(getattr(value, part))}", terminal_width())
        for row in listed:
            if row.path[0] == part or (not part and row.path[0] not in parts):
                yield from _entry(f"{row.flag} {type_name(row.annotation)}", _meaning(row))


def main_fields(value: Any, names: Sequence[str], aliases: Mapping[str, str]) -> Iterator[str]:
    """Some fields of a dataclass, and where the others are found.

    Args:
      value: the dataclass; its values are shown as the defaults.
      names: dotted names of the fields, in order; those that the value lacks are skipped.
      aliases: short name -> option without dashes; the first one of an option is shown.
    """
    short: dict[str, str] = {}
    for alias, option in aliases.items():
        short.setdefault(f"--{option}", f"--{alias}, ")
    by_name = {row.name: row for row in rows(value)}
    yield from ("", "The fields used most:")
    for row in (by_name[name] for name in names if name in by_name):
        head = f"{short.get(row.flag, '')}{row.flag} {type_name(row.annotation)}"
        yield from _entry(head, _meaning(row))
    yield ""
    sections = ", ".join(name for name in help_topics(type(value)) if name != ALL)
    yield from textwrap.wrap(
        f"More: --help {ALL}, or --help SECTION, one of {sections}.", terminal_width()
    )


def _about(part: Any) -> str:
    """The docstring of a part; of a list, those of its items' classes."""
    items = dict.fromkeys(map(type, part)) if isinstance(part, tuple) else [type(part)]
    return " ".join(" ".join((item.__doc__ or "").split()) for item in items)


def _entry(head: str, text: str) -> list[str]:
    return [
        f"  {head}",
        *textwrap.wrap(text, terminal_width(), initial_indent=INDENT, subsequent_indent=INDENT),
    ]


def _meaning(row: Row) -> str:
    doc = row.doc if not row.doc or row.doc[-1] in ".?!)" else f"{row.doc}."
    return f"{doc} (default: {shown_default(row.annotation, row.value)})".strip()


def shown_default(annotation: Any, value: Any) -> str:
    """A default as typed on the command line."""
    if element(annotation) is not None:
        return " ".join(_compact(item) for item in value) or "nothing"
    if variants(annotation) and value is not None:
        return kind(type(value))
    if isinstance(value, tuple):
        return " ".join(repr(item) for item in value) or "nothing"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" else str(value)


def _compact(value: Any) -> str:
    """A variant as `kind:field=value,...` with the fields that differ from their defaults; the kind
    alone if such a field is nested."""
    changed = []
    for field in fields(value):
        inner = plain(getattr(value, field.name))
        if field.name != "kind" and inner != plain(field.default):
            items = inner if isinstance(inner, list) else [inner]
            if any(isinstance(item, list | dict) for item in items):
                return kind(type(value))
            changed.append(f"{field.name}={','.join(map(str, items))}")
    return kind(type(value)) + (f":{','.join(changed)}" if changed else "")
