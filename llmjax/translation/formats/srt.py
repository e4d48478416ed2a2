"""SubRip subtitles: numbers and times stay, and a subtitle keeps its number of lines."""

import re
from collections.abc import Sequence

from llmjax.errors import UserError
from llmjax.translation.document import Document, DocumentFormat, Template
from llmjax.translation.formats.text import decoded

TIME = re.compile(r"\d+:\d\d:\d\d[,.]\d{1,3}\s*-->\s*\d+:\d\d:\d\d[,.]\d{1,3}.*")
TAGS = re.compile(r"</?[a-zA-Z][^>]*>|\{\\[^}]*\}")
"""Formatting that stays."""


class SrtFormat(DocumentFormat):
    """Subtitles in UTF-8."""

    def parse(self, data: bytes, name: str) -> Document:
        lines = decoded(data, name).splitlines()
        parts, texts = list[str | tuple[Template, int]](), list[str]()
        index = 0
        while index < len(lines):
            parts.append(lines[index])
            if not TIME.fullmatch(lines[index].strip()):
                index += 1
                continue
            end = index + 1
            while end < len(lines) and lines[end].strip():
                end += 1
            if spoken := lines[index + 1 : end]:
                template = Template()
                template.translate(" ".join(line.strip() for line in spoken), TAGS)
                parts.append((template, len(spoken)))
                texts += template.texts
            index = end
        if lines and not texts:
            raise UserError(name, "has no subtitles", "is it an .srt file?")

        def render(translated: Sequence[str]) -> bytes:
            remaining, out = list(translated), list[str]()
            for part in parts:
                if isinstance(part, str):
                    out.append(part)
                    continue
                template, count = part
                out += broken(template.render(remaining[: len(template.texts)]), count)
                del remaining[: len(template.texts)]
            return "".join(f"{line}\n" for line in out).encode("utf-8")

        return Document(texts, render)


def broken(text: str, count: int) -> list[str]:
    """Break a text at spaces into lines of similar length, `count` at most."""
    lines, rest = list[str](), text
    for left in range(count, 1, -1):
        target = len(rest) / left
        spaces = [match.start() for match in re.finditer(" ", rest)]
        if not spaces:
            break
        cut = min(spaces, key=lambda index: abs(index - target))
        lines.append(rest[:cut].rstrip())
        rest = rest[cut + 1 :].lstrip()
    return [*lines, rest]
