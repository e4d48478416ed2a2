"""Tables in files: CSV, TSV, JSONL, JSON and Parquet, and parallel files of lines."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from llmjax.data.tables.delimited import read_csv, read_tsv, text_lines
from llmjax.data.tables.table import Row, Table
from llmjax.data.text.parquet import table_rows
from llmjax.data.text.reading import compressed, expand, read_whole
from llmjax.data.text.text_files import parse_record
from llmjax.errors import UserError
from llmjax.storage.json_documents import DOCUMENT, parse_json
from llmjax.storage.stores.path import Location

Reader: TypeAlias = Callable[[Location, Sequence[str]], Iterator[Row]]


@dataclass(frozen=True)
class FileTable(Table):
    """CSV, TSV, JSONL or Parquet files, or JSON files with a list of objects or in SQuAD's format;
    also .gz, .bz2, .xz and .zst."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); the suffix selects the format."""
    columns: tuple[str, ...] = ()
    """Column names of CSV and TSV files without a header line."""
    constants: tuple[tuple[str, str], ...] = ()
    """(column, value) pairs added to every row of these files."""
    kind: Literal["table"] = "table"
    endings: ClassVar[tuple[str, ...]] = tuple(
        ".csv .tsv .tab .txt .json .jsonl .ndjson .parquet".split()
    )

    @property
    def location(self) -> str:
        return ", ".join(self.paths)

    def problems(self) -> list[str]:
        return [] if self.paths else [f"a {self.kind} table names no paths"]

    def rows(self) -> Iterator[Row]:
        for path in expand(self.paths):
            for row in _read_file(path, self.columns):
                yield _add_constants(row, self.constants)


@dataclass(frozen=True)
class LinesTable(Table):
    """Parallel plain text files: row n is line n of each."""

    paths: tuple[str, ...]
    """A file per column; also .gz, .bz2, .xz and .zst."""
    columns: tuple[str, ...] = ("source", "target")
    """Column names."""
    constants: tuple[tuple[str, str], ...] = ()
    """(column, value) pairs added to every row of these files."""
    kind: Literal["lines"] = "lines"

    @property
    def location(self) -> str:
        return ", ".join(self.paths)

    def problems(self) -> list[str]:
        problems = [] if self.paths else [f"a {self.kind} table names no paths"]
        if len(self.paths) != len(self.columns):
            problems.append(f"{len(self.paths)} files for the columns {', '.join(self.columns)}")
        return problems

    def rows(self) -> Iterator[Row]:
        if len(self.paths) != len(self.columns) or not self.paths:
            reason = f"has {len(self.paths)} files for {len(self.columns)} columns"
            raise UserError(self.location or "table", reason, "name one file for each column")
        matches = [expand((path,)) for path in self.paths]
        for path, files in zip(self.paths, matches, strict=True):
            if len(files) != 1:
                reason = f"matches {len(files)} files"
                raise UserError(path, reason, "name one file for each column")
        streams = [text_lines(path) for (path,) in matches]
        for number, lines in enumerate(itertools.zip_longest(*streams), 1):
            texts = [line for line in lines if line is not None]
            if len(texts) != len(lines):
                raise self._unequal(number, lines, streams)
            plain = (text.removesuffix("\n").removesuffix("\r") for text in texts)
            values = dict(zip(self.columns, plain, strict=True))
            yield _add_constants(Row(f"{self.paths[0]} line {number}", values), self.constants)

    def _unequal(
        self, number: int, lines: Sequence[str | None], streams: Sequence[Iterator[str]]
    ) -> UserError:
        """The error for files of unequal length, at the first line that some of them lack."""
        remaining = [sum(1 for _ in stream) for stream in streams]
        counts = ", ".join(
            f"{path} {number - (line is None) + more:,}"
            for path, line, more in zip(self.paths, lines, remaining, strict=True)
        )
        fix = "line n of each must correspond to line n of the others"
        return UserError("files of lines", f"are of unequal length ({counts})", fix)


def _read_file(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    """Streams the rows of a file, whose suffix selects the format.

    Args:
      path: CSV (.csv; RFC 4180, also with semicolons, tabs or vertical bars for commas), TSV (.tsv,
        .tab, .txt; tab-separated, no quoting), JSONL (.jsonl, .ndjson), JSON (.json) or Parquet
        (.parquet), optionally followed by .gz, .bz2, .xz or .zst.
      columns: of CSV and TSV files without a header line; empty: the first line holds them.

    Raises:
      UserError: the file is invalid; the message names file, line, problem and fix.
    """
    inner = Path(path.stem) if compressed(path) else path
    reader = _READERS.get(inner.suffix.lower())
    if reader is None:
        reason = f"has the unknown suffix {inner.suffix!r}" if inner.suffix else "has no suffix"
        raise UserError(path, reason, f"use {', '.join(_READERS)}")
    yield from reader(path, columns)


def _jsonl(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            place = f"{path} line {number}"
            yield Row(place, parse_record(place, line))


def _json(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    _, text = read_whole(path, DOCUMENT.size)
    fix = "fix it, or name it .jsonl if every line is an object"
    value = parse_json(text, path, limits=DOCUMENT, unique=True, fix=fix)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
        if any(isinstance(entry, dict) and "paragraphs" in entry for entry in value):
            yield from _squad(path, value)
            return
    if not isinstance(value, list):
        reason = "is neither a list of objects nor in SQuAD's format"
        raise UserError(path, reason, 'write [{"text": ...}, ...]')
    for number, entry in enumerate(value, 1):
        place = f"{path} entry {number}"
        if not isinstance(entry, dict):
            raise UserError(place, "is not a JSON object", 'write objects such as {"text": "..."}')
        yield Row(place, entry)


def _squad(path: Location, articles: list[Any]) -> Iterator[Row]:
    """A row per question of SQuAD 1.1 (arXiv:1606.05250) or 2.0 (arXiv:1806.03822)."""
    count, place = 0, f"{path} article 1"
    try:
        for number, article in enumerate(articles, 1):
            for part, paragraph in enumerate(article["paragraphs"], 1):
                place = f"{path} article {number} paragraph {part}"
                for entry in paragraph["qas"]:
                    count += 1
                    answers = entry.get("answers") or []
                    values = {
                        "id": str(entry.get("id", count)),
                        "title": article.get("title", ""),
                        "context": paragraph["context"],
                        "question": entry["question"],
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                        "is_impossible": bool(entry.get("is_impossible", False)),
                    }
                    yield Row(f"{path} question {values['id']}", values)
    except (KeyError, TypeError, AttributeError) as error:
        fix = "see the format of SQuAD's files"
        raise UserError(place, f"is not in SQuAD's format: {error!r}", fix) from error


def _parquet(path: Location, columns: Sequence[str]) -> Iterator[Row]:
    for number, values in enumerate(table_rows(path), 1):
        yield Row(f"{path} row {number}", values)


def _add_constants(row: Row, constants: Sequence[tuple[str, str]]) -> Row:
    for column, _ in constants:
        if column in row.values:
            reason = f"already has a column {column!r}"
            raise UserError(row.place, reason, "remove it from the table's constants")
    return Row(row.place, row.values | dict(constants)) if constants else row


_READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".tab": read_tsv,
    ".txt": read_tsv,
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}
