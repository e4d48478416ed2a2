"""Tables: their interface and registry, the split into training and validation rows, and access to
columns.

Cheap to import: libraries are imported when a table is read.
"""

import hashlib
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

from llmjax.data.text.split import HASHES, document_hash
from llmjax.errors import UserError
from llmjax.registry import Registry

MAX_ROWS = 10_000_000
"""Maximum rows read into memory; each takes some 500 bytes besides its text."""
MAX_TEXT = 1 << 32
"""Maximum characters of text in them."""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      place: its location for messages, such as "train.tsv line 17".
      values: column -> string, number, boolean, None, list or dict.
    """

    place: str
    values: dict[str, Any]


class Table(ABC):
    """A source of rows with named columns. Subclasses are frozen dataclasses."""

    endings: ClassVar[tuple[str, ...]] = ()
    """File name suffixes that select this kind on the command line."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in TABLES and in configs."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Paths or name of the data set, for messages."""

    def problems(self) -> list[str]:
        """Every problem with the values, one line each; nothing is read from disk."""
        return []

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Streams the rows in a fixed order.

        Raises:
          UserError: a file is missing or damaged; the message names file, line and column.
        """


TABLES = Registry[Table](
    "table",
    {
        "table": "llmjax.data.tables.files:FileTable",
        "lines": "llmjax.data.tables.files:LinesTable",
        "tfds": "llmjax.data.tables.tfds:TfdsTable",
    },
)
AnyTable: TypeAlias = Annotated[Table, TABLES]
"""Type of config fields that take any table."""


def read_table(table: Table) -> Iterator[Row]:
    """Streams the rows of a table in a fixed order.

    Raises:
      UserError: as `rows`, or there is no row.
    """
    rows = table.rows()
    first = next(rows, None)
    if first is None:
        raise UserError(table.location or "table", "holds no rows", "add rows, or name other files")
    yield from itertools.chain([first], rows)


def read_tables(tables: Sequence[Table]) -> list[Row]:
    """Reads the rows of all tables, one table after the other.

    Raises:
      UserError: as `read_table`, or MAX_ROWS or MAX_TEXT is exceeded.
    """
    rows, size = list[Row](), 0
    for row in itertools.chain.from_iterable(map(read_table, tables)):
        size += _characters(row.values.values())
        if len(rows) == MAX_ROWS or size > MAX_TEXT:
            limit = f"{MAX_ROWS:,} rows or {MAX_TEXT:,} characters"
            reason = f"there are more than {limit} up to this row, and all are kept in memory"
            raise UserError(row.place, reason, "use fewer rows")
        rows.append(row)
    return rows


def _characters(values: Iterable[Any]) -> int:
    """Total length of all strings among values, nested ones included."""
    size = 0
    for value in values:
        if isinstance(value, (str, bytes)):
            size += len(value)
        elif isinstance(value, (list, dict)):
            size += _characters(value.values() if isinstance(value, dict) else value)
    return size


def split_rows(
    rows: Sequence[Row], fraction: float, group: str | None = None
) -> tuple[list[Row], list[Row]]:
    """Splits rows into (training set, validation set) by hashes of their values.

    A row is for validation if its hash is in the lowest `fraction` of the range of hashes; if there
    is none, the row of lowest hash is. So equal rows stay together, and each row stays in its set
    when other rows are added, removed or reordered.

    Args:
      rows: to split; both sets keep their order.
      fraction: for validation, between 0 and 1.
      group: column whose value is hashed instead, so that rows of equal value stay together.

    Raises:
      UserError: no row is left to train on, or a row has no column `group`.
    """
    if not fraction or not rows:
        return list(rows), []
    hashes = [_row_hash(row, group) for row in rows]
    limit = max(round(fraction * HASHES), min(hashes) + 1)
    train = [row for row, value in zip(rows, hashes, strict=True) if value >= limit]
    if not train:
        what = f"value of {group!r}" if group else "kind of row"
        reason = f"there is only one {what}, or too few to split by {fraction:g}"
        raise UserError("dev_fraction", reason, "add rows, or name tables in dev")
    return train, [row for row, value in zip(rows, hashes, strict=True) if value < limit]


def _row_hash(row: Row, group: str | None) -> int:
    if group is not None and group not in row.values:
        fix = f"its columns are {', '.join(row.values)}"
        raise UserError(row.place, f"has no column {group!r} to group by", fix)
    value = row.values if group is None else row.values[group]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_as_text)
    return document_hash(text.encode())


def _as_text(value: Any) -> str:
    """Represents values that JSON cannot: bytes, dates."""
    if isinstance(value, bytes):
        return hashlib.blake2b(value).hexdigest()
    return str(value)


def text_at(row: Row, column: str) -> str:
    """The text of a column, never empty.

    Raises:
      UserError: there is no such column, or its value is not a string, empty, or not encodable as
        UTF-8.
    """
    text = _value(row, column)
    if not isinstance(text, str):
        raise _bad_value(row, column, f"is {_type_name(text)}, not text", "name a column of texts")
    if not text.strip():
        raise _bad_value(row, column, "is empty", "fill it in or remove the row")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"has half a surrogate pair as character {error.start}"
        raise _bad_value(row, column, reason, "fix the text") from error
    return text


def number_at(row: Row, column: str) -> float:
    """The number of a column, which may be a string.

    Raises:
      UserError: there is no such column, or its value is not a finite number.
    """
    value = _value(row, column)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _bad_value(
            row, column, f"is {_type_name(value)}, not a number", "name a column of numbers"
        )
    try:
        number = float(value.replace("_", "?") if isinstance(value, str) else value)
    except (ValueError, OverflowError) as error:
        reason = f"is {str(value)[:40]!r}, not a number" if value != "" else "is empty"
        fix = "fix the row, or name a column of numbers"
        if isinstance(value, str) and "," in value:
            fix = "write numbers with a decimal point and without separators: 1234.5"
        raise _bad_value(row, column, reason, fix) from error
    if not math.isfinite(number):
        raise _bad_value(row, column, f"is {number}, not a finite number", "fix or remove the row")
    return number


def list_at(row: Row, column: str, separator: str | None = None) -> list[Any]:
    """The list of a column, possibly empty.

    Args:
      row: of the table.
      column: of lists, or of strings that are split into entries.
      separator: of the entries of a string, which are stripped; empty ones are dropped. None:
        whitespace.

    Raises:
      UserError: there is no such column, or its value is neither a list nor a string.
    """
    value = _value(row, column)
    if isinstance(value, str):
        entries = (entry.strip() for entry in value.split(separator))
        return [entry for entry in entries if entry]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return list(value)
    raise _bad_value(row, column, f"is {_type_name(value)}, not a list", "name a column of lists")


def _value(row: Row, column: str) -> Any:
    if column in row.values:
        return row.values[column]
    names = list(row.values)
    fix = f"its columns are {', '.join(map(_short, names))}"
    if any(len(name) > 40 or name.replace(".", "", 1).isdigit() for name in names):
        fix += "; if its first line holds no names, set the table's columns"
    raise UserError(row.place, f"has no column {column!r}", fix)


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")


def _bad_value(row: Row, column: str, reason: str, fix: str) -> UserError:
    return UserError(f"{row.place}, column {column!r}", reason, fix)


def _type_name(value: Any) -> str:
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
