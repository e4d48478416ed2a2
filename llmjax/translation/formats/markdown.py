"""Markdown: the text of paragraphs, headings, list items and table cells; code and markup stay."""

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt

from llmjax.translation.document import Document, DocumentFormat, Template
from llmjax.translation.formats.text import decoded

MARKUP = re.compile(
    r"`+[^`]*`+|!?\[(?=[^\]]*\])|\](?:\([^)\s]*(?:\s+\"[^\"]*\")?\)|\[[^\]]*\])?|<[^>\n]+>|"
    r"\*{1,3}|~~|(?<!\w)_{1,3}|_{1,3}(?!\w)|https?://[^\s)>]+|&\w+;|\\."
)
"""Inline markup that stays."""
PREFIX = re.compile(r"[ \t]*(?:>[ \t]?)*[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)*(?:\[[ xX]\][ \t]+)?")
HEADING = re.compile(r"(#{1,6}[ \t]+)(.*?)([ \t]*#*[ \t]*)")
UNDERLINE = re.compile(r"[ \t>]*(?:=+|-+)[ \t]*")
RULE_ROW = re.compile(r"[ \t>]*\|?[ \t:|-]+")


class MarkdownFormat(DocumentFormat):
    """CommonMark with tables, in UTF-8. The lines of a paragraph become one."""

    def parse(self, data: bytes, name: str) -> Document:
        text = decoded(data, name).replace("\r\n", "\n")
        template, done = Template(), 0
        lines = text.split("\n")
        for kind, first, last in _blocks(text):
            if first < done:
                continue
            for line in lines[done:first]:
                template.keep(f"{line}\n")
            _block(template, kind, lines[first:last])
            done = last
            template.keep("\n" if done < len(lines) else "")
        template.keep("\n".join(lines[done:]))
        return template.document()


def _blocks(text: str) -> Iterator[tuple[str, int, int]]:
    """Kind, first line and line after the last of each block with text."""
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.map and token.type in ("paragraph_open", "heading_open", "table_open"):
            first, last = token.map
            yield token.type.removesuffix("_open"), first, last


def _block(template: Template, kind: str, lines: list[str]) -> None:
    if kind == "table":
        for number, line in enumerate(lines):
            template.keep("\n" if number else "")
            _row(template, line)
        return
    prefixes = [match[0] if (match := PREFIX.match(line)) else "" for line in lines]
    template.keep(prefixes[0])
    first = lines[0][len(prefixes[0]) :]
    if kind == "heading" and (heading := HEADING.fullmatch(first)):
        template.keep(heading[1])
        template.translate(heading[2], MARKUP)
        template.keep(heading[3])
        return
    underline = lines[-1] if kind == "heading" and UNDERLINE.fullmatch(lines[-1]) else None
    inner = zip(lines[1:], prefixes[1:], strict=True)
    rest = [line[len(prefix) :] for line, prefix in inner]
    if underline is not None:
        rest.pop()
    for number, part in enumerate(_unwrapped([first, *rest])):
        template.keep("\n" if number else "")
        template.translate(part, MARKUP)
    if underline is not None:
        template.keep(f"\n{underline}")


def _unwrapped(lines: list[str]) -> list[str]:
    """The lines, joined but for hard breaks."""
    parts = [lines[0]]
    for line in lines[1:]:
        if parts[-1].endswith(("  ", "\\")):
            parts.append(line)
        else:
            parts[-1] = f"{parts[-1].rstrip()} {line.lstrip()}"
    return parts


def _row(template: Template, line: str) -> None:
    if RULE_ROW.fullmatch(line):
        template.keep(line)
        return
    for cell in re.split(r"((?<!\\)\|)", line):
        template.translate(cell, MARKUP)
