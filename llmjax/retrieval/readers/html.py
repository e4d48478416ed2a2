"""HTML: the text of block elements below their headings."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmjax.errors import UserError
from llmjax.retrieval.document import Block, DocumentReader, HeadingPath, Place
from llmjax.storage.bounded import MIB, read_text

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

LIMIT = 32 * MIB
"""Bytes of a document, which is parsed as a whole."""
UNSEEN = "script, style, template, noscript, svg, math, head, iframe, object"
BREAKING = frozenset(
    "address article aside blockquote body caption dd details dialog div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hr html legend li main nav ol option p pre "
    "section summary table tbody tfoot thead tr ul".split()
)
"""Elements that begin and end a block of text."""
HEADINGS = {f"h{level}": level for level in range(1, 7)}


class HtmlReader(DocumentReader):
    """HTML5 in UTF-8, read as browsers do."""

    def blocks(self, path: Path) -> Iterator[Block]:
        return html_blocks(parse_html(read_text(path, LIMIT, fix="convert or split it")))


def parse_html(text: str) -> "LexborHTMLParser":
    """Parse HTML.

    Raises:
      UserError: selectolax is not installed.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as error:
        raise UserError("HTML", "needs selectolax", "pip install 'llmjax[search]'") from error
    return LexborHTMLParser(text)


def html_blocks(document: "LexborHTMLParser") -> Iterator[Block]:
    """Yield the visible text of block elements, white space collapsed outside <pre>."""
    for node in document.css(UNSEEN):
        node.decompose()
    headings, parts = HeadingPath(), list[str]()
    level: int | None = None

    def block() -> Iterator[Block]:
        nonlocal level
        text = "".join(parts).replace("\0", "")
        parts.clear()
        if level is not None:
            headings.enter(level, " ".join(text.split()))
        elif text.strip():
            yield Block(text.strip(), Place(str(headings)))
        level = None

    # An explicit stack of (node, whether it ends here): documents may be nested deeply.
    stack = [(document.body, False)] if document.body is not None else []
    while stack:
        node, ends = stack.pop()
        if node is None:
            continue
        if node.is_text_node:
            text = node.text_content or ""
            parts.append(text if _in_pre(stack) else _collapsed(text))
        elif ends or node.tag in BREAKING:
            yield from block()
            if not ends:
                level = HEADINGS.get(node.tag or "")
        elif node.tag in ("br", "td", "th"):
            parts.append("\n" if node.tag == "br" else " ")
        if not ends and not node.is_text_node:
            if node.tag in BREAKING:
                stack.append((node, True))
            stack.extend(reversed([(child, False) for child in node.iter(include_text=True)]))
    yield from block()


def _in_pre(stack: list[tuple]) -> bool:
    return any(ends and node.tag == "pre" for node, ends in stack)


def _collapsed(text: str) -> str:
    words = " ".join(text.split())
    before = " " if text[:1].isspace() else ""
    after = " " if words and text[-1:].isspace() else ""
    return f"{before}{words}{after}"
