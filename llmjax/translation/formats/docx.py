"""Word documents: the text of runs, in the body, tables, headers and footers; all else stays."""

import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.bounded import MIB
from llmjax.translation.document import Document, DocumentFormat, Template

MAX_CONTENT = 512 * MIB
"""Bytes of a document's parts, decompressed."""
WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
NOT_XML = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""Characters that XML cannot hold."""
SPACE = "{http://www.w3.org/XML/1998/namespace}space"


class DocxFormat(DocumentFormat):
    """Office Open XML text. Neighbouring runs of one format are translated as one."""

    def parse(self, data: bytes, name: str) -> Document:
        try:
            import docx
        except ImportError as error:
            raise UserError(name, "needs python-docx", "pip install 'llmjax[translate]'") from error
        try:
            _check_size(data, name)
            document = docx.Document(io.BytesIO(data))
        except (zipfile.BadZipFile, KeyError, ValueError, SyntaxError) as error:
            reason = f"is no Word document: {error}"
            raise UserError(name, reason, "save it as .docx again") from error
        slots = list[tuple[list[Any], Template]]()
        for root in _roots(document):
            for group in _groups(root):
                template = Template()
                template.translate("".join(text.text or "" for text in group))
                if template.texts:
                    slots.append((group, template))

        def render(texts: Sequence[str]) -> bytes:
            remaining = list(texts)
            for group, template in slots:
                text = template.render(remaining[: len(template.texts)])
                group[0].text = NOT_XML.sub("", text)
                group[0].set(SPACE, "preserve")
                for other in group[1:]:
                    other.text = ""
                del remaining[: len(template.texts)]
            out = io.BytesIO()
            document.save(out)
            return out.getvalue()

        return Document([text for _, slot in slots for text in slot.texts], render)


def _check_size(data: bytes, name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_CONTENT:
            raise UserError(name, "decompresses to over 512 MiB", "check the file")


def _roots(document: Any) -> Iterator[Any]:
    """The XML of the body, and of headers and footers that are its own."""
    yield document.element.body
    for section in document.sections:
        kinds = ("header", "first_page_header", "even_page_header")
        for kind in (*kinds, *(kind.replace("header", "footer") for kind in kinds)):
            part = getattr(section, kind)
            if not part.is_linked_to_previous:
                yield part._element


def _groups(root: Any) -> Iterator[list[Any]]:
    """Elements of text (w:t) of neighbouring runs with the same properties."""
    for paragraph in root.iter(f"{WORD}p"):
        for parent in (paragraph, *paragraph.iterchildren(f"{WORD}hyperlink", f"{WORD}ins")):
            group, before = list[Any](), None
            for child in parent:
                contents = [item for item in child if item.tag != f"{WORD}rPr"]
                properties = _properties(child)
                plain = child.tag == f"{WORD}r" and {item.tag for item in contents} == {f"{WORD}t"}
                if group and (not plain or properties != before):
                    yield group
                    group = []
                if plain:
                    group, before = group + contents, properties
                elif child.tag == f"{WORD}r":  # tabs and breaks between texts
                    yield from ([item] for item in contents if item.tag == f"{WORD}t")
            if group:
                yield group


def _properties(run: Any) -> bytes:
    from lxml import etree

    found = run.find(f"{WORD}rPr")
    return b"" if found is None else etree.tostring(found, method="c14n")
