"""Documents as texts to translate; the registry of their formats."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmjax.registry import Registry


class Document(NamedTuple):
    """A parsed document.

    Attributes:
      texts: what is to be translated, in order.
      render: makes the document's bytes from as many texts.
    """

    texts: list[str]
    render: Callable[[Sequence[str]], bytes]


class DocumentFormat(ABC):
    """A format of documents."""

    @abstractmethod
    def parse(self, data: bytes, name: str) -> Document:
        """Parse a document.

        Args:
          data: its bytes.
          name: for messages.

        Raises:
          UserError: it is damaged, or a library is not installed.
        """


FORMATS = Registry[DocumentFormat](
    "document format",
    {
        ".txt": "llmjax.translation.formats.text:TextFormat",
        ".md": "llmjax.translation.formats.markdown:MarkdownFormat",
        ".markdown": "llmjax.translation.formats.markdown:MarkdownFormat",
        ".html": "llmjax.translation.formats.html:HtmlFormat",
        ".htm": "llmjax.translation.formats.html:HtmlFormat",
        ".srt": "llmjax.translation.formats.srt:SrtFormat",
        ".docx": "llmjax.translation.formats.docx:DocxFormat",
    },
)
"""By suffix of the file's name, in lower case."""


class Template:
    """A text with slots for translations: what is between them stays as it is."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._parts: list[str | int] = []

    def keep(self, text: str) -> None:
        """Add text that stays."""
        self._parts.append(text)

    def translate(self, text: str, protected: re.Pattern[str] | None = None) -> None:
        """Add text to translate, but for white space around it and what matches `protected`."""
        pieces = [text] if protected is None else protected.split(text)
        kept = [] if protected is None else [match[0] for match in protected.finditer(text)]
        for number, piece in enumerate(pieces):
            core = piece.strip()
            if any(character.isalpha() for character in core):
                start = piece.index(core)
                self._parts += [piece[:start], len(self.texts), piece[start + len(core) :]]
                self.texts.append(core)
            else:
                self._parts.append(piece)
            if number < len(kept):
                self._parts.append(kept[number])

    def render(self, texts: Sequence[str]) -> str:
        """The text with these translations in its slots."""
        return "".join(part if isinstance(part, str) else texts[part] for part in self._parts)

    def document(self) -> Document:
        """As a document in UTF-8."""
        return Document(self.texts, lambda texts: self.render(texts).encode("utf-8"))
