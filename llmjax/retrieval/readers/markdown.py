"""Markdown: paragraphs, list items, tables and code below their headings."""

from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from llmjax.retrieval.document import Block, DocumentReader, HeadingPath, Place
from llmjax.storage.bounded import MIB, read_text

BLOCKS = ("paragraph_open", "table_open", "fence", "code_block", "html_block")
"""Tokens of blocks that hold text."""
LIMIT = 8 * MIB
"""Bytes of a document, which is parsed as a whole."""


class MarkdownReader(DocumentReader):
    """CommonMark with tables, in UTF-8."""

    def blocks(self, path: Path) -> Iterator[Block]:
        text = read_text(path, LIMIT, fix="split it, or name it .txt to read it as plain text")
        return markdown_blocks(text.replace("\0", ""))


def markdown_blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a Markdown text as they are written, markup included."""
    lines, headings = text.split("\n"), HeadingPath()
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for number, token in enumerate(tokens):
        if token.map is None:
            continue
        first, last = token.map
        if token.type == "heading_open":
            headings.enter(int(token.tag[1]), tokens[number + 1].content.strip())
        elif token.type in BLOCKS and (written := "\n".join(lines[first:last]).strip()):
            yield Block(written, Place(str(headings), None, first + 1, last))
