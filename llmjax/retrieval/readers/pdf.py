"""PDF: the text of one page after another."""

import logging
from collections.abc import Iterator
from pathlib import Path

from llmjax.errors import UserError
from llmjax.retrieval.document import Block, DocumentReader
from llmjax.retrieval.readers.text import paragraphs
from llmjax.storage.bounded import regular_file

MAX_PAGE = 1 << 22
"""Characters of a page."""


class PdfReader(DocumentReader):
    """PDF with a text layer; scanned pages have none, and yield nothing."""

    def blocks(self, path: Path) -> Iterator[Block]:
        try:
            import pypdf
        except ImportError as error:
            raise UserError(path, "needs pypdf", "pip install 'llmjax[search]'") from error
        logging.getLogger("pypdf").setLevel(logging.ERROR)  # what it repairs is no news
        with regular_file(path) as file:
            try:
                pages = pypdf.PdfReader(file)
                if pages.is_encrypted and not pages.decrypt(""):
                    raise UserError(path, "is encrypted", "remove its password first")
                for number in range(len(pages.pages)):
                    text = pages.pages[number].extract_text()[:MAX_PAGE].replace("\0", "")
                    text = text.encode("utf-8", "replace").decode("utf-8")  # unpaired surrogates
                    for block in paragraphs(text, 1):
                        place = block.place._replace(page=number + 1, line=None, last_line=None)
                        yield block._replace(place=place)
            except (pypdf.errors.PyPdfError, *DAMAGE) as error:
                reason = f"cannot be read as PDF: {error or type(error).__name__}"
                raise UserError(path, reason, "print it to a new PDF") from error


DAMAGE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""What pypdf raises on damaged files besides its own errors."""
