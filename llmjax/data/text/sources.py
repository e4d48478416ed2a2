"""Every source as a stream of documents."""

import contextlib
import tempfile
from collections.abc import Iterator
from functools import singledispatch
from pathlib import Path
from typing import IO

from llmjax.data.config import (
    EmbeddedSource,
    HubSource,
    JsonlSource,
    ParquetSource,
    Source,
    TextSource,
    TfdsSource,
)
from llmjax.data.text.parquet_files import string_column
from llmjax.data.text.reading import (
    compressed,
    decode,
    expand,
    read_blocks,
    read_chunks,
    read_lines,
    read_whole,
)
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD, parse_json


@singledispatch
def documents(source: Source, cache_dir: str | None = None) -> Iterator[str]:
    """Streams the documents of `source`, in a fixed order; empty ones are left out.

    Args:
      source: any of the sources of llmjax.data.config.
      cache_dir: where the embedded corpus is prepared (see DataConfig.cache_dir).

    Raises:
      UserError: while reading, where a file is missing or broken; it names file and place.
    """
    raise TypeError(f"{source!r} is not a source")


@documents.register
def _(source: TextSource, cache_dir: str | None = None) -> Iterator[str]:
    for path in expand(source.paths):
        if source.split == "line":
            pieces = read_lines(path)
        elif source.split == "file":
            pieces = iter([read_whole(path)])
        else:
            pieces = read_chunks(path, source.chunk_bytes)
        for offset, data in pieces:
            if data:
                yield decode(path, offset, data, source.errors)


@documents.register
def _(source: JsonlSource, cache_dir: str | None = None) -> Iterator[str]:
    for path in expand(source.paths):
        for number, (offset, line) in enumerate(read_lines(path), 1):
            if line.strip():
                text = _json_field(f"{path}:{number}", decode(path, offset, line, source.errors))
                value = text.get(source.field)
                if not isinstance(value, str):
                    raise _no_text(f"{path}:{number}", source.field, text)
                if value:
                    yield _whole_characters(f"{path}:{number}", value, source.errors)


def _json_field(where: str, line: str) -> dict[str, object]:
    value = parse_json(line, where, limits=RECORD, unique=True, fix="fix or remove the line")
    if not isinstance(value, dict):
        raise UserError(where, "is not a JSON object", 'write lines such as {"text": "..."}')
    return value


def _no_text(where: str, field: str, record: dict[str, object]) -> UserError:
    strings = [name for name, value in record.items() if isinstance(value, str)]
    fix = f"set field to one of its strings: {', '.join(strings) or 'there are none'}"
    if field in record:
        return UserError(where, f"field {field!r} is no string", fix)
    return UserError(where, f"has no field {field!r}", fix)


def _whole_characters(where: str, text: str, errors: str) -> str:
    r"""JSON can spell half a surrogate pair ("\ud800"), which is no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "replace":
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        raise UserError(
            where,
            f"character {error.start} of its text is half a surrogate pair",
            'mend the line, or set errors="replace"',
        ) from error
    return text


@documents.register
def _(source: ParquetSource, cache_dir: str | None = None) -> Iterator[str]:
    for path in expand(source.paths):
        with _seekable(path) as file:
            yield from filter(None, string_column(file, path, source.column))


@contextlib.contextmanager
def _seekable(path: Path) -> Iterator[IO[bytes]]:
    """The file, or what it decompresses to in a temporary one: Parquet's index is at the end."""
    if not compressed(path):
        try:
            file = path.open("rb")
        except OSError as error:
            raise UserError(path, f"cannot be read: {error.strerror}", "check the file") from error
        with file:
            yield file
        return
    with tempfile.TemporaryFile() as temporary:
        for block in read_blocks(path):
            temporary.write(block)
        temporary.seek(0)
        yield temporary


@documents.register
def _(source: EmbeddedSource, cache_dir: str | None = None) -> Iterator[str]:
    from llmjax.data.text.tfds_source import embedded_documents

    return embedded_documents(cache_dir)


@documents.register
def _(source: TfdsSource, cache_dir: str | None = None) -> Iterator[str]:
    from llmjax.data.text.tfds_source import tfds_documents

    return tfds_documents(source)


@documents.register
def _(source: HubSource, cache_dir: str | None = None) -> Iterator[str]:
    from llmjax.data.text.hub_source import hub_documents

    return hub_documents(source)
