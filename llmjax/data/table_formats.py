"""The forms of table files: CSV, TSV, JSONL, JSON, Parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from llmjax.data.reading import compressed, read_blocks
from llmjax.data.table_rows import Row
from llmjax.errors import UserError

Reader: TypeAlias = Callable[[Path, Sequence[str]], Iterator[Row]]
LONGEST_FIELD = (1 << 31) - 1  # Python's csv stops at 131,072 characters otherwise


def read_file(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Streams the rows of a file, whose form its ending tells.

    Args:
      path: CSV (.csv; RFC 4180), TSV (.tsv, .tab, .txt; tabs between fields and no quotes), JSONL
        (.jsonl, .ndjson), JSON (.json) or Parquet (.parquet); .gz, .bz2, .xz or .zst may follow.
      columns: of CSV and TSV files without a line of names; none: the first line holds them.

    Raises:
      UserError: while reading; it names file and line, what is wrong there and how to mend it.
    """
    inner = Path(path.stem) if compressed(path) else path
    reader = _READERS.get(inner.suffix.lower())
    if reader is None:
        reason = f"ends in {inner.suffix!r}" if inner.suffix else "has no ending"
        raise UserError(path, f"{reason}, which is no known form", f"use {', '.join(_READERS)}")
    yield from reader(path, columns)


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, a byte order mark left out.

    Raises:
      UserError: a line is not UTF-8.
    """
    rest, number = b"", 0
    for block in read_blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            yield _decoded(path, number, line + b"\n")
    if rest:
        yield _decoded(path, number + 1, rest)


def _decoded(path: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1}"
        raise UserError(f"{path} line {number}", reason, "convert the file to UTF-8") from error


def _csv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(text_lines(path), strict=True)

    def records() -> Iterator[tuple[int, list[str]]]:
        start = 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = f"is not CSV: {error}"
                fix = "mend its quotes, or name the file .tsv where tabs part the fields"
                raise UserError(f"{path} line {start}", reason, fix) from error
            yield start, fields
            start = reader.line_num + 1

    yield from _named(path, records(), columns, "commas")


def _tsv(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    lines = (line.removesuffix("\n").removesuffix("\r") for line in text_lines(path))
    records = ((number, line.split("\t") if line else []) for number, line in enumerate(lines, 1))
    yield from _named(path, records, columns, "tabs")


def _named(
    path: Path, records: Iterator[tuple[int, list[str]]], columns: Sequence[str], marks: str
) -> Iterator[Row]:
    """(line, fields) to rows; empty lines are left out."""
    filled = ((number, fields) for number, fields in records if fields)
    names = list(columns)
    if not names:
        number, names = next(filled, (1, []))
        if not names:
            raise UserError(path, "is empty", "it should begin with a line of column names")
        _check_names(f"{path} line {number}", names)
    for number, fields in filled:
        if len(fields) != len(names):
            reason = f"has {len(fields)} fields, not the {len(names)} of {', '.join(names)[:80]}"
            fix = f"mend the {marks} between its fields"
            raise UserError(f"{path} line {number}", reason, fix)
        yield Row(f"{path} line {number}", dict(zip(names, fields, strict=True)))


def _check_names(place: str, names: list[str]) -> None:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        fix = "give each its own, or set the table's columns where the first line holds no names"
        raise UserError(place, f"names two columns {twice[:40]!r}", fix)


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            place = f"{path} line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                fix = "mend or remove the line"
                raise UserError(place, f"is not JSON: {error}", fix) from error
            yield Row(place, _object(place, value))


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        value = json.loads(b"".join(read_blocks(path)).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        fix = "mend it, or name it .jsonl where every line is an object"
        raise UserError(path, f"is not JSON: {error}", fix) from error
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
        if any(isinstance(entry, dict) and "paragraphs" in entry for entry in value):
            yield from _squad(path, value)
            return
    if not isinstance(value, list):
        reason = "is neither a list of objects nor of SQuAD's form"
        raise UserError(path, reason, 'write [{"text": ...}, ...]')
    for number, entry in enumerate(value, 1):
        place = f"{path} entry {number}"
        yield Row(place, _object(place, entry))


def _object(place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(place, "is not a JSON object", 'write objects such as {"text": "..."}')
    return value


def _squad(path: Path, articles: list[Any]) -> Iterator[Row]:
    """A row for each question of SQuAD 1.1 (arXiv:1606.05250) or 2.0 (arXiv:1806.03822)."""
    count, at = 0, f"{path} article 1"
    try:
        for number, article in enumerate(articles, 1):
            for part, paragraph in enumerate(article["paragraphs"], 1):
                at = f"{path} article {number} paragraph {part}"
                for entry in paragraph["qas"]:
                    count += 1
                    known = entry.get("answers") or []
                    values = {
                        "id": str(entry.get("id", count)),
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": entry["question"],
                        "answers": {
                            "text": [answer["text"] for answer in known],
                            "answer_start": [answer["answer_start"] for answer in known],
                        },
                        "is_impossible": bool(entry.get("is_impossible", False)),
                    }
                    yield Row(f"{path} question {values['id']}", values)
    except (KeyError, TypeError, AttributeError) as error:
        fix = "see the form of SQuAD's files"
        raise UserError(at, f"is not of SQuAD's form: {error!r}", fix) from error


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    count = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                for values in batch.to_pylist():
                    count += 1
                    yield Row(f"{path} row {count}", values)
    except (pyarrow.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise UserError(path, f"is no sound Parquet file: {error}", "get it again") from error


_READERS: dict[str, Reader] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".tab": _tsv,
    ".txt": _tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
