"""Reads CSV and TSV files."""

import csv
import itertools
from collections.abc import Iterator, Sequence

from llmjax.data.tables.table import Row
from llmjax.data.text.parquet import MAX_COLUMNS
from llmjax.data.text.reading import read_blocks, split_lines
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD
from llmjax.storage.stores.path import Location

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""Separators of .csv files other than commas, detected by the first line."""
LONGEST_FIELD = RECORD.size
"""Maximum characters of a field; the default of Python's csv is 131,072."""

Record = tuple[int, list[str]]  # number of the first line, fields


def text_lines(path: Location, end: bytes | None = b"\n") -> Iterator[str]:
    """Yields the lines of a UTF-8 file with their ends, without its byte order mark.

    Args:
      path: of the file, which may be compressed.
      end: see `split_lines`.

    Raises:
      UserError: a line is not UTF-8.
    """
    for number, (_, line) in enumerate(split_lines(read_blocks(path), path, end), 1):
        yield _decode_line(path, number, line)


def _decode_line(path: Location, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}"
        raise UserError(f"{path} line {number}", reason, "convert the file to UTF-8") from error


def read_csv(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    """Reads RFC 4180 with any line ends, and separators other than commas if the first line has
    such and no comma."""
    lines = _universal_lines(path)
    first = next(lines, "")
    separator = _separator(path, first, columns)
    records = _csv_records(path, itertools.chain([first] if first else [], lines), separator)
    yield from _to_rows(path, records, columns, SEPARATORS.get(separator, "commas"))


def _universal_lines(path: Location) -> Iterator[str]:
    r"""Lines that end in \n, \r\n or \r, including their ends."""
    number = 0
    for _, text in split_lines(read_blocks(path), path, None):
        for line in text.splitlines(keepends=True):
            number += 1
            yield _decode_line(path, number, line)


def _separator(path: Location, line: str, columns: Sequence[str]) -> str:
    """The separator of a line's fields; a comma by default."""

    def count(separator: str) -> int:
        try:
            return len(next(csv.reader([line], delimiter=separator), []))
        except csv.Error:
            return 0

    csv.field_size_limit(LONGEST_FIELD)
    expected = len(columns)
    if count(",") != 1 or expected == 1:
        return ","
    counts = {separator: count(separator) for separator in SEPARATORS}
    fitting = [
        s for s, fields in counts.items() if (fields == expected if expected else fields > 1)
    ]
    if len(fitting) > 1:
        names = " or ".join(SEPARATORS[separator] for separator in fitting)
        fix = "use commas, or tabs in a file named .tsv"
        raise UserError(f"{path} line 1", f"may be separated by {names}, not by commas", fix)
    return fitting[0] if fitting else ","


def _csv_records(path: Location, lines: Iterator[str], separator: str) -> Iterator[Record]:
    reader = csv.reader(lines, strict=True, delimiter=separator)
    start = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            fix = "fix its quotes, or name the file .tsv if tabs separate the fields"
            raise UserError(f"{path} line {start}", f"is not CSV: {error}", fix) from error
        yield start, fields
        start = reader.line_num + 1


def read_tsv(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    """Reads tab-separated fields without quoting."""
    lines = (line.rstrip("\r\n") for line in text_lines(path, None))
    records = ((number, line.split("\t") if line else []) for number, line in enumerate(lines, 1))
    yield from _to_rows(path, records, columns, "tabs")


def _to_rows(
    path: Location, records: Iterator[Record], columns: Sequence[str], separators: str
) -> Iterator[Row]:
    """Records to rows, skipping empty lines."""
    records = ((number, fields) for number, fields in records if fields)
    names, unnamed = list(columns), 0
    if not names:
        number, names = next(records, (1, []))
        if not names:
            raise UserError(path, "is empty", "it should begin with a line of column names")
        while len(names) > 1 and not names[-1]:  # separators at the ends of lines
            names.pop()
            unnamed += 1
        _check_names(f"{path} line {number}", names)
    for number, fields in records:
        place = f"{path} line {number}"
        if len(fields) != len(names) + unnamed:
            reason = f"has {len(fields)} fields, not the {len(names)} of {', '.join(names)[:80]}"
            raise UserError(place, reason, f"fix the {separators} between its fields")
        if any(fields[len(names) :]):
            reason = f"has a value in column {len(names) + 1}, which has no name"
            raise UserError(place, reason, "name it in the first line")
        yield Row(place, dict(zip(names, fields, strict=False)))


def _check_names(place: str, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        reason = f"names {len(names):,} columns, and at most {MAX_COLUMNS:,} are read"
        raise UserError(place, reason, "remove those that are not needed")
    if any("\0" in name for name in names):
        fix = "convert the file to UTF-8 if it is UTF-16"
        raise UserError(place, "has NUL bytes in the names of columns", fix)
    if len(set(names)) < len(names):
        repeated = next(name for index, name in enumerate(names) if name in names[:index])
        fix = "rename one, or set the table's columns if the first line holds no names"
        raise UserError(place, f"names two columns {repeated[:40]!r}", fix)
