"""Plain text: paragraphs between blank lines, streamed."""

import re
from collections.abc import Iterator
from pathlib import Path

from llmjax.data.text.reading import read_chunks
from llmjax.errors import UserError
from llmjax.retrieval.document import Block, DocumentReader, Place
from llmjax.storage.bounded import regular_file

CHUNK = 1 << 16
"""Bytes read at once; a paragraph may be four times as long, a longer one is cut."""
_BREAK = re.compile(r"\n[ \t\r\f]*\n")


class TextReader(DocumentReader):
    """UTF-8 text."""

    def blocks(self, path: Path) -> Iterator[Block]:
        with regular_file(path):  # refuses pipes and devices without waiting for them
            pass
        line = 1
        for offset, data in read_chunks(path, CHUNK):
            text = _decoded(path, offset, data)
            yield from paragraphs(text, line)
            line += text.count("\n")


def paragraphs(text: str, line: int) -> Iterator[Block]:
    """Yield the paragraphs of a text whose first line has the number `line`."""
    start = 0
    for end, following in [*(match.span() for match in _BREAK.finditer(text)), (len(text),) * 2]:
        part = text[start:end]
        if stripped := part.strip():
            first = line + part[: len(part) - len(part.lstrip())].count("\n")
            yield Block(stripped, Place("", None, first, first + stripped.count("\n")))
        line += text.count("\n", start, following)
        start = following


def _decoded(path: Path, offset: int, data: bytes) -> str:
    try:
        return data.decode("utf-8").replace("\0", "")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at offset {offset + error.start}"
        raise UserError(path, f"is not UTF-8: {byte}", "convert it with iconv") from error
