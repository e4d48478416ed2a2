"""The forms of table files: CSV, TSV, JSONL, JSON, Parquet."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from llmjax.data.tables.delimited import read_csv, read_tsv, text_lines
from llmjax.data.tables.rows import Row
from llmjax.data.text.parquet_files import table_rows
from llmjax.data.text.reading import compressed, read_whole
from llmjax.errors import UserError
from llmjax.storage.json_documents import DOCUMENT, RECORD, parse_json

Reader: TypeAlias = Callable[[Path, Sequence[str]], Iterator[Row]]


def read_file(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Streams the rows of a file, whose form its ending tells.

    Args:
      path: CSV (.csv; RFC 4180, also with semicolons, tabs or vertical bars for commas), TSV (.tsv,
        .tab, .txt; tabs between fields and no quotes), JSONL (.jsonl, .ndjson), JSON (.json) or
        Parquet (.parquet); .gz, .bz2, .xz or .zst may follow.
      columns: of CSV and TSV files without a line of names; none: the first line holds them.

    Raises:
      UserError: while reading; it names file and line, what is wrong there and how to fix it.
    """
    inner = Path(path.stem) if compressed(path) else path
    reader = _READERS.get(inner.suffix.lower())
    if reader is None:
        reason = f"ends in {inner.suffix!r}" if inner.suffix else "has no ending"
        raise UserError(path, f"{reason}, which is no known form", f"use {', '.join(_READERS)}")
    yield from reader(path, columns)


def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            place = f"{path} line {number}"
            fix = "fix or remove the line"
            value = parse_json(line, place, limits=RECORD, unique=True, fix=fix)
            yield Row(place, _object(place, value))


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    _, text = read_whole(path, DOCUMENT.size)
    fix = "fix it, or name it .jsonl where every line is an object"
    value = parse_json(text, path, limits=DOCUMENT, unique=True, fix=fix)
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
    for number, values in enumerate(table_rows(path), 1):
        yield Row(f"{path} row {number}", values)


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
