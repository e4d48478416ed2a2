"""Rows of tables, and their values as the types that are needed of them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmjax.errors import UserError


class Row(NamedTuple):
    """One row of a table.

    Attributes:
      place: where it stands, for messages: "train.tsv line 17".
      values: column -> text, number, truth value, None, list or dict.
    """

    place: str
    values: dict[str, Any]


def text_at(row: Row, column: str) -> str:
    """The text of a column; never empty.

    Raises:
      UserError: there is no such column, or its value is no text, or empty, or cannot be UTF-8.
    """
    text = _value(row, column)
    if not isinstance(text, str):
        raise _wrong(row, column, f"is {_kind(text)}, not text", "name a column of texts")
    if not text.strip():
        raise _wrong(row, column, "is empty", "fill it in or remove the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"has half a surrogate pair as character {error.start}"
        raise _wrong(row, column, reason, "mend the text") from error
    return text


def number_at(row: Row, column: str) -> float:
    """The number of a column, which may be spelt as text.

    Raises:
      UserError: there is no such column, or its value is no finite number.
    """
    value = _value(row, column)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(row, column, f"is {_kind(value)}, not a number", "name a column of numbers")
    try:
        number = float(value.replace("_", "?") if isinstance(value, str) else value)
    except (ValueError, OverflowError) as error:
        reason = f"is {str(value)[:40]!r}, not a number" if value != "" else "is empty"
        fix = "mend the row, or name a column of numbers"
        if isinstance(value, str) and "," in value:
            fix = "write numbers with a decimal point and without other marks: 1234.5"
        raise _wrong(row, column, reason, fix) from error
    if not math.isfinite(number):
        raise _wrong(row, column, f"is {number}, not a finite number", "mend or remove the row")
    return number


def list_at(row: Row, column: str, separator: str | None = None) -> list[Any]:
    """The list of a column; may be empty.

    Args:
      row: where to look.
      column: of lists, or of texts that spell them.
      separator: between the entries of such a text, whose blanks around are dropped, and empty
        entries too; None: they stand between blanks.

    Raises:
      UserError: there is no such column, or its value is neither list nor text.
    """
    value = _value(row, column)
    if isinstance(value, str):
        entries = (entry.strip() for entry in value.split(separator))
        return [entry for entry in entries if entry]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return list(value)
    raise _wrong(row, column, f"is {_kind(value)}, not a list", "name a column of lists")


def _value(row: Row, column: str) -> Any:
    if column in row.values:
        return row.values[column]
    there = list(row.values)
    fix = f"its columns are {', '.join(map(_short, there))}"
    if any(len(name) > 40 or name.replace(".", "", 1).isdigit() for name in there):
        fix += "; where its first line holds no names, set the table's columns"
    raise UserError(row.place, f"has no column {column!r}", fix)


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")


def _wrong(row: Row, column: str, reason: str, fix: str) -> UserError:
    return UserError(f"{row.place}, column {column!r}", reason, fix)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "a truth value"
        case str():
            return "text"
        case int() | float():
            return f"the number {value}"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
    return f"of type {type(value).__name__}"
