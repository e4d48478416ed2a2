"""Cuts documents into passages that a model embeds whole."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from llmjax.data.text.sentences import CountTokens, fitting, sentences
from llmjax.retrieval.document import Block, Place

GROUP = 64
"""Blocks whose tokens are counted together."""
BETWEEN = "\n\n"
"""Between blocks of one passage."""
HEADING_SHARE = 4
"""A heading may take this part of a passage's tokens: a quarter."""


class Passage(NamedTuple):
    """A piece of a document: what is found.

    Attributes:
      text: of the passage.
      place: in the document.
    """

    text: str
    place: Place

    @property
    def with_heading(self) -> str:
        """The text below its heading: what is embedded, and searched for words."""
        return f"{self.place.heading}\n{self.text}" if self.place.heading else self.text


class _Unit(NamedTuple):
    """A text that is not cut further, what joins it to the one before, and its tokens."""

    text: str
    joint: str
    size: int
    place: Place


def passages(blocks: Iterable[Block], count: CountTokens, limit: int) -> Iterator[Passage]:
    """Join blocks, and cut long ones, into passages of at most `limit` tokens with their heading.

    A passage has blocks of one heading and page. A long block is cut at ends of sentences, a long
    sentence at spaces, and a long word anywhere.

    Args:
      blocks: of a document, in order; read as passages are taken.
      count: counts tokens.
      limit: tokens of a passage.
    """
    parts, size = list[_Unit](), 0
    for unit in _units(blocks, count, limit):
        is_new = parts and (unit.place.heading, unit.place.page) != parts[-1].place[:2]
        if parts and (is_new or size + unit.size > limit):
            yield _joined(parts)
            parts, size = [], 0
        if not parts and unit.place.heading:
            size = count([f"{unit.place.heading}\n"])[0]
        parts.append(unit)
        size += unit.size
    if parts:
        yield _joined(parts)


def _joined(units: Sequence[_Unit]) -> Passage:
    first, last = units[0].place, units[-1].place
    text = "".join(unit.joint * bool(number) + unit.text for number, unit in enumerate(units))
    return Passage(text.strip(), first._replace(last_line=last.last_line))


def _units(blocks: Iterable[Block], count: CountTokens, limit: int) -> Iterator[_Unit]:
    """Blocks that fit, and pieces of those that do not."""
    remaining = iter(blocks)
    while group := list(itertools.islice(remaining, GROUP)):
        for block, size in zip(
            group, count([block.text + BETWEEN for block in group]), strict=True
        ):
            place = block.place._replace(heading=_shortened(block.place.heading, count, limit))
            space = limit - (count([f"{place.heading}\n"])[0] if place.heading else 0)
            if size <= space:
                yield _Unit(block.text, BETWEEN, size, place)
            else:
                yield from _pieces(block.text, place, count, max(1, space))


def _pieces(text: str, place: Place, count: CountTokens, space: int) -> Iterator[_Unit]:
    line, joint = place.line, BETWEEN
    for sentence in sentences(text):
        for piece, size in fitting(sentence, count, space):
            last = None if line is None else line + piece.rstrip().count("\n")
            with_joint = size + count([joint])[0]
            yield _Unit(piece, joint, with_joint, place._replace(line=line, last_line=last))
            line = None if line is None else line + piece.count("\n")
            joint = ""


def _shortened(heading: str, count: CountTokens, limit: int) -> str:
    """The innermost part of a heading, if it is long."""
    space = max(1, limit // HEADING_SHARE)
    while heading and count([f"{heading}\n"])[0] > space:
        _, separator, inner = heading.partition(" > ")
        heading = inner if separator else heading[: len(heading) // 2].strip()
    return heading
