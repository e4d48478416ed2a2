"""Tables as streams of rows, and their division into rows to learn from and rows to measure on."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llmjax.data.tables.config import FileTable, LinesTable, Table, TfdsTable
from llmjax.data.tables.delimited import text_lines
from llmjax.data.tables.formats import read_file
from llmjax.data.tables.rows import Row, list_at, number_at, text_at
from llmjax.data.text.reading import expand
from llmjax.data.text.split import HASHES, document_hash
from llmjax.errors import UserError

MAX_ROWS = 10_000_000
"""Rows of tables at most that are read as a whole; each takes some 500 bytes beside its texts."""
MOST_TEXT = 1 << 32
"""Characters of text in them at most."""

__all__ = ["Row", "list_at", "number_at", "read_table", "read_tables", "split_rows", "text_at"]


def read_table(table: Table) -> Iterator[Row]:
    """Streams the rows of a table, always in the same order.

    Raises:
      UserError: while reading, where a file is missing or broken, or there is no row; it names
        file, line and column.
    """
    match table:
        case FileTable():
            name, rows = ", ".join(table.paths), _file_rows(table)
        case LinesTable():
            name, rows = ", ".join(table.paths), _line_rows(table)
        case TfdsTable():
            from llmjax.data.tables.tfds import tfds_rows

            name, rows = f"{table.name}, split {table.split!r}", tfds_rows(table)
    first = next(rows, None)
    if first is None:
        raise UserError(name or "table", "holds no rows", "add rows, or name other files")
    yield from itertools.chain([first], rows)


def read_tables(tables: Sequence[Table]) -> list[Row]:
    """The rows of all tables, one table after the other.

    Raises:
      UserError: as read_table; also when there are more than MAX_ROWS, or MOST_TEXT in them.
    """
    rows, size = list[Row](), 0
    for row in itertools.chain.from_iterable(map(read_table, tables)):
        size += _characters(row.values.values())
        if len(rows) == MAX_ROWS or size > MOST_TEXT:
            limit = f"{MAX_ROWS:,} rows or {MOST_TEXT:,} characters"
            reason = f"there are more than {limit} up to here, and all are in memory"
            raise UserError(row.place, reason, "use fewer rows")
        rows.append(row)
    return rows


def _characters(values: Iterable[Any]) -> int:
    """Of all texts among values and in the lists and objects among them."""
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
    """Divides rows into (to learn from, to measure on) by their contents alone.

    A row is held out where the hash of its values lies in the lowest `fraction` of all hashes;
    where none does, the row of the lowest hash is. So equal rows stay together, and each row stays
    on its side whatever order they come in and whatever other rows come or go.

    Args:
      rows: to divide; both parts keep their order.
      fraction: to measure on, between 0 and 1.
      group: column whose value is hashed instead: rows of one value stay together.

    Raises:
      UserError: no row is left to learn from, or one has no column `group`.
    """
    if not fraction or not rows:
        return list(rows), []
    hashes = [_row_hash(row, group) for row in rows]
    limit = max(round(fraction * HASHES), min(hashes) + 1)
    train = [row for row, value in zip(rows, hashes, strict=True) if value >= limit]
    if not train:
        what = f"value of {group!r}" if group else "kind of row"
        reason = f"there is only one {what}, or too few to divide by {fraction:g}"
        raise UserError("dev_fraction", reason, "add rows, or name tables in dev")
    return train, [row for row, value in zip(rows, hashes, strict=True) if value < limit]


def _row_hash(row: Row, group: str | None) -> int:
    if group is not None and group not in row.values:
        fix = f"its columns are {', '.join(row.values)}"
        raise UserError(row.place, f"has no column {group!r} to group by", fix)
    value = row.values if group is None else row.values[group]
    spelt = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_spelt)
    return document_hash(spelt.encode())


def _spelt(value: Any) -> str:
    """What JSON has no form for: bytes, dates."""
    if isinstance(value, bytes):
        return hashlib.blake2b(value).hexdigest()
    return str(value)


def _file_rows(table: FileTable) -> Iterator[Row]:
    for path in expand(table.paths):
        for row in read_file(path, table.columns):
            yield _with_constants(row, table.constants)


def _line_rows(table: LinesTable) -> Iterator[Row]:
    if len(table.paths) != len(table.columns) or not table.paths:
        reason = f"has {len(table.paths)} files for {len(table.columns)} columns"
        raise UserError(", ".join(table.paths) or "table", reason, "name one file for each column")
    files = [expand((path,)) for path in table.paths]
    for path, found in zip(table.paths, files, strict=True):
        if len(found) != 1:
            raise UserError(path, f"matches {len(found)} files", "name one file for each column")
    streams = [text_lines(path) for (path,) in files]
    for number, lines in enumerate(itertools.zip_longest(*streams), 1):
        texts = [line for line in lines if line is not None]
        if len(texts) != len(lines):
            rest = [sum(1 for _ in stream) for stream in streams]
            counts = ", ".join(
                f"{path} {number - (line is None) + more:,}"
                for path, line, more in zip(table.paths, lines, rest, strict=True)
            )
            fix = "line n of each should belong to line n of the others"
            raise UserError("files of lines", f"are of unequal length ({counts})", fix)
        plain = (text.removesuffix("\n").removesuffix("\r") for text in texts)
        row = Row(f"{table.paths[0]} line {number}", dict(zip(table.columns, plain, strict=True)))
        yield _with_constants(row, table.constants)


def _with_constants(row: Row, constants: Sequence[tuple[str, str]]) -> Row:
    for column, _ in constants:
        if column in row.values:
            reason = f"has a column {column!r} of its own"
            raise UserError(row.place, reason, "take it out of the table's constants")
    return Row(row.place, row.values | dict(constants)) if constants else row
