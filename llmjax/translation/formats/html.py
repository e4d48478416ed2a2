"""HTML: the text between tags, and the attributes that people read; code and scripts stay."""

from collections.abc import Sequence

from llmjax.errors import UserError
from llmjax.translation.document import Document, DocumentFormat, Template
from llmjax.translation.formats.text import decoded

KEPT = frozenset("script style code pre kbd samp textarea svg math template noscript".split())
"""Elements whose content stays."""
ATTRIBUTES = ("alt", "title", "placeholder", "aria-label")


class HtmlFormat(DocumentFormat):
    """HTML5 in UTF-8. What `translate="no"` marks stays."""

    def parse(self, data: bytes, name: str) -> Document:
        try:
            from selectolax.lexbor import LexborHTMLParser
        except ImportError as error:
            raise UserError(name, "needs selectolax", "pip install 'llmjax[translate]'") from error
        tree = LexborHTMLParser(decoded(data, name))
        slots: list[tuple[object, str | None, Template]] = []
        stack = [tree.root] if tree.root is not None else []
        while stack:
            node = stack.pop()
            if node.is_text_node:
                _slot(slots, node, None, node.text_content or "")
                continue
            attributes = node.attributes
            if attributes.get("translate") == "no" or node.tag in KEPT:
                continue
            for attribute in ATTRIBUTES:
                _slot(slots, node, attribute, attributes.get(attribute) or "")
            stack.extend(reversed(list(node.iter(include_text=True))))

        def render(texts: Sequence[str]) -> bytes:
            remaining = list(texts)
            for node, attribute, template in slots:
                count = len(template.texts)
                text = template.render(remaining[:count])
                del remaining[:count]
                if attribute is None:
                    node.replace_with(text)  # type: ignore[attr-defined]
                else:
                    node.attrs[attribute] = text  # type: ignore[attr-defined]
            return (tree.html or "").encode("utf-8")

        return Document([text for _, _, slot in slots for text in slot.texts], render)


def _slot(
    slots: list[tuple[object, str | None, Template]], node: object, attribute: str | None, text: str
) -> None:
    template = Template()
    template.translate(text)
    if template.texts:
        slots.append((node, attribute, template))
