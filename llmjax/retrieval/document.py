"""Documents as blocks of text with their place; the registry of their readers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmjax.registry import Registry


class Place(NamedTuple):
    """Where a text stands in its document.

    Attributes:
      heading: the headings above it, from the outermost, joined by " > "; "" if there are none.
      page: of a PDF, from 1; None for other formats.
      line, last_line: of a text file, from 1; None for formats without lines.
    """

    heading: str = ""
    page: int | None = None
    line: int | None = None
    last_line: int | None = None


class Block(NamedTuple):
    """A paragraph, list item, cell or the like.

    Attributes:
      text: without surrounding white space; not empty.
      place: in the document.
    """

    text: str
    place: Place


class DocumentReader(ABC):
    """Reads documents of one format."""

    @abstractmethod
    def blocks(self, path: Path) -> Iterator[Block]:
        """Yield the blocks of a document in reading order.

        Memory is bounded: text and PDF are streamed, other formats are limited in size.

        Raises:
          UserError: it cannot be read, is damaged, too large, or its library is not installed.
        """


READERS = Registry[DocumentReader](
    "document format",
    {
        ".txt": "llmjax.retrieval.readers.text:TextReader",
        ".md": "llmjax.retrieval.readers.markdown:MarkdownReader",
        ".markdown": "llmjax.retrieval.readers.markdown:MarkdownReader",
        ".html": "llmjax.retrieval.readers.html:HtmlReader",
        ".htm": "llmjax.retrieval.readers.html:HtmlReader",
        ".pdf": "llmjax.retrieval.readers.pdf:PdfReader",
    },
)
"""By suffix of the file's name, in lower case."""


class HeadingPath:
    """The headings above the current block."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        """Note a heading; those of the same or a deeper level end."""
        self._stack = [(above, name) for above, name in self._stack if above < level]
        if text:
            self._stack.append((level, text))

    def __str__(self) -> str:
        return " > ".join(name for _, name in self._stack)
