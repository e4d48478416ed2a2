"""CSV and TSV files as rows."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmjax.data.tables.table import Row
from llmjax.data.text.parquet import MAX_COLUMNS
from llmjax.data.text.reading import read_blocks, split_lines
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What may stand between the fields of a file named .csv in place of commas, by its first line."""
LONGEST_FIELD = RECORD.size
"""Characters of a field at most; Python's csv stops at 131,072 otherwise."""

Record = tuple[int, list[str]]  # the number of its first line, and its fields


def text_lines(path: Path, end: bytes | None = b"\n") -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, a byte order mark left out.

    Args:
      path: of the file; may be compressed.
      end: see `split_lines`.

    Raises:
      UserError: a line is not UTF-8.
    """
    for number, (_, line) in enumerate(split_lines(read_blocks(path), path, end), 1):
        yield _decoded(path, number, line)


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}"
        raise UserError(f"{path} line {number}", reason, "convert the file to UTF-8") from error


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """RFC 4180, with any line ends; also other separators than commas where the first line has
    them and no comma."""
    lines = _any_lines(path)
    first = next(lines, "")
    separator = _separator(path, first, columns)
    records = _csv_records(path, _chained(first, lines), separator)
    yield from _named(path, records, columns, SEPARATORS.get(separator, "commas"))


def _any_lines(path: Path) -> Iterator[str]:
    r"""Lines that end in \n, \r\n or \r, with their ends."""
    number = 0
    for _, text in split_lines(read_blocks(path), path, None):
        for line in text.splitlines(keepends=True):
            number += 1
            yield _decoded(path, number, line)


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _separator(path: Path, line: str, columns: Sequence[str]) -> str:
    """What separates the fields of a line; a comma where nothing says otherwise."""

    def count(separator: str) -> int:
        try:
            return len(next(csv.reader([line], delimiter=separator), []))
        except csv.Error:
            return 0

    csv.field_size_limit(LONGEST_FIELD)
    wanted = len(columns)
    if count(",") != 1 or wanted == 1:
        return ","
    marks = [mark for mark in SEPARATORS if (count(mark) == wanted if wanted else count(mark) > 1)]
    if len(marks) > 1:
        names = " or ".join(SEPARATORS[mark] for mark in marks)
        fix = "use commas, or tabs in a file named .tsv"
        raise UserError(f"{path} line 1", f"may be separated by {names}, not by commas", fix)
    return marks[0] if marks else ","


def _csv_records(path: Path, lines: Iterator[str], separator: str) -> Iterator[Record]:
    reader = csv.reader(lines, strict=True, delimiter=separator)
    start = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = "fix its quotes, or name the file .tsv where tabs separate the fields"
            raise UserError(f"{path} line {start}", f"is not CSV: {error}", fix) from error
        yield start, fields
        start = reader.line_num + 1


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Tabs between fields, and no quotes."""
    lines = (line.rstrip("\r\n") for line in text_lines(path, None))
    records = ((number, line.split("\t") if line else []) for number, line in enumerate(lines, 1))
    yield from _named(path, records, columns, "tabs")


def _named(
    path: Path, records: Iterator[Record], columns: Sequence[str], marks: str
) -> Iterator[Row]:
    """Records to rows; empty lines are left out."""
    filled = ((number, fields) for number, fields in records if fields)
    names, unnamed = list(columns), 0
    if not names:
        number, names = next(filled, (1, []))
        if not names:
            raise UserError(path, "is empty", "it should begin with a line of column names")
        while len(names) > 1 and not names[-1]:  # separators at the ends of lines
            names.pop()
            unnamed += 1
        _check_names(f"{path} line {number}", names)
    for number, fields in filled:
        place = f"{path} line {number}"
        if len(fields) != len(names) + unnamed:
            reason = f"has {len(fields)} fields, not the {len(names)} of {', '.join(names)[:80]}"
            raise UserError(place, reason, f"fix the {marks} between its fields")
        if any(fields[len(names) :]):
            reason = f"has a value in column {len(names) + 1}, which has no name"
            raise UserError(place, reason, "name it in the first line")
        yield Row(place, dict(zip(names, fields, strict=False)))


def _check_names(place: str, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        reason = f"names {len(names):,} columns, and at most {MAX_COLUMNS:,} are read"
        raise UserError(place, reason, "leave out those that are not needed")
    if any("\0" in name for name in names):
        fix = "convert the file to UTF-8 if it is UTF-16"
        raise UserError(place, "has NUL bytes in the names of columns", fix)
    if len(set(names)) < len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        fix = "give each its own, or set the table's columns where the first line holds no names"
        raise UserError(place, f"names two columns {twice[:40]!r}", fix)
