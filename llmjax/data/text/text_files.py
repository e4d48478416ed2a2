"""Text files and JSONL files as documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from llmjax.data.text.filters import AnyFilter, RawDocument
from llmjax.data.text.reading import decode, expand, read_chunks, read_lines, read_whole
from llmjax.data.text.source import FileSource
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD, parse_json

LARGEST_CHUNK = 1 << 26
"""Maximum chunk_bytes of a text source: four times as many are held in memory."""


@dataclass(frozen=True)
class TextSource(FileSource):
    """Plain text files, also .gz, .bz2, .xz and .zst."""

    paths: tuple[str, ...]
    """Files and globs (`**` matches nested folders); a glob's files are read in sorted order."""
    split: Literal["chunk", "file", "line"] = "chunk"
    """What a document is: a run of paragraphs, a whole file (held in memory), or a line."""
    chunk_bytes: int = 4096
    """With split="chunk": a document ends at the first blank line after this many UTF-8 bytes (or
    at a line end after twice as many, or anywhere after four times as many)."""
    errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: refuse the file, or replace each invalid byte by U+FFFD."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["text"] = "text"

    def problems(self) -> list[str]:
        problems = super().problems()
        if self.chunk_bytes <= 0:
            problems.append(f"chunk_bytes {self.chunk_bytes} is not positive")
        if self.chunk_bytes > LARGEST_CHUNK:
            problems.append(f"chunk_bytes {self.chunk_bytes} is above {LARGEST_CHUNK}")
        return problems

    @property
    def reading(self) -> tuple[object, ...]:
        return self.split, self.chunk_bytes if self.split == "chunk" else None, self.errors

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        for path in expand(self.paths):
            if self.split == "line":
                pieces = read_lines(path)
            elif self.split == "file":
                pieces = iter([read_whole(path)])
            else:
                pieces = read_chunks(path, self.chunk_bytes)
            for offset, data in pieces:
                if data:
                    yield decode(path, offset, data, self.errors)


@dataclass(frozen=True)
class JsonlSource(FileSource):
    """Files with a JSON object per line, also .gz, .bz2, .xz and .zst; a line is a document."""

    field: str = "text"
    """The key of the text."""
    errors: Literal["strict", "replace"] = "strict"
    """Invalid UTF-8: refuse the file, or replace each invalid byte by U+FFFD."""
    weight: float = 1.0
    """Share of rows taken from this source, relative to the other sources' weights."""
    filters: tuple[AnyFilter, ...] = ()
    """Applied to its documents, in this order."""
    kind: Literal["jsonl"] = "jsonl"
    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson")

    @property
    def reading(self) -> tuple[object, ...]:
        return self.field, self.errors

    def documents(self, cache_dir: str | None = None) -> Iterator[str]:
        return (document.text for document in self.raw_documents(cache_dir))

    def raw_documents(self, cache_dir: str | None = None) -> Iterator[RawDocument]:
        """The other keys of a line are what filters know of its text."""
        for path in expand(self.paths):
            for number, (offset, line) in enumerate(read_lines(path), 1):
                place = f"{path}:{number}"
                if line.strip():
                    record = parse_record(place, decode(path, offset, line, self.errors))
                    text = record.get(self.field)
                    if not isinstance(text, str):
                        raise _no_text(place, self.field, record)
                    if text:
                        whole = _complete_characters(place, text, self.errors)
                        yield RawDocument(whole, record)


def parse_record(place: str, line: str) -> dict[str, Any]:
    """The JSON object of a line; `place` is its location, for messages."""
    value = parse_json(line, place, limits=RECORD, unique=True, fix="fix or remove the line")
    if not isinstance(value, dict):
        raise UserError(place, "is not a JSON object", 'write lines such as {"text": "..."}')
    return value


def _no_text(place: str, field: str, record: dict[str, object]) -> UserError:
    strings = [name for name, value in record.items() if isinstance(value, str)]
    fix = f"set field to one of its strings: {', '.join(strings) or 'there are none'}"
    if field in record:
        return UserError(place, f"field {field!r} is not a string", fix)
    return UserError(place, f"has no field {field!r}", fix)


def _complete_characters(place: str, text: str, errors: str) -> str:
    r"""Rejects or replaces unpaired surrogates, which JSON can hold ("\ud800")."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "replace":
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raise UserError(
            place,
            f"character {error.start} of its text is half a surrogate pair",
            'fix the line, or set errors="replace"',
        ) from error
    return text
