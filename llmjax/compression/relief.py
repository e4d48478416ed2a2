"""Text that is better left to zstd: found once the model has said what each token costs."""

from typing import NamedTuple

import numpy as np

from llmjax.compression.packing import packed
from llmjax.compression.segments import PIECE, Cutter, Segment, joined, pieces

BREAK = 32
"""Bytes that a piece has to save, as the text around it is cut in two."""


class Relief(NamedTuple):
    """A frame with less text.

    Attributes:
      segments: what it consists of; text that was handed over has no tokens any more.
      size: bytes that it will take, by the costs that are known.
    """

    segments: list[Segment]
    size: float


def relieve(segments: list[Segment], bits: np.ndarray, cutter: Cutter) -> Relief | None:
    """Hands over each piece of text that zstd alone makes smaller than the model did.

    Args:
      segments: of a frame.
      bits: float64 [tokens], what each token of them cost.
      cutter: what cut them.

    Returns:
      None where nothing is to be handed over, or no text would be left.
    """
    sizes, place, left, handed = cutter.tokenizer.token_bytes(), 0, 0.0, False
    found: list[Segment] = []
    for segment in segments:
        if segment.tokens is None:
            found.append(segment)
            continue
        costs = _costs(segment, bits[place : place + len(segment.tokens)], sizes)
        place += len(segment.tokens)
        kept = [cost <= 8 * (len(packed(piece)) + BREAK) for piece, cost in costs]
        left += sum(cost for (_, cost), keep in zip(costs, kept, strict=True) if keep)
        found += [segment] if all(kept) else _cut(costs, kept, cutter)
        handed = handed or not all(kept)
    if not handed or all(segment.tokens is None for segment in found):
        return None
    others = b"".join(segment.data for segment in found if segment.tokens is None)
    return Relief(joined(found), left / 8 + len(packed(others)))


def _costs(segment: Segment, bits: np.ndarray, sizes: np.ndarray) -> list[tuple[bytes, float]]:
    """Pieces of a segment, and what those tokens cost that end in each, in bits."""
    parts = list(pieces(segment.data, PIECE))
    ends = np.cumsum(sizes[segment.tokens])
    until = np.searchsorted(ends, np.cumsum([len(part) for part in parts]), side="right")
    until[-1] = len(bits)  # a token may stand for a space that is not there
    sums = np.concatenate([[0.0], np.cumsum(bits)])[np.concatenate([[0], until])]
    return list(zip(parts, np.diff(sums).tolist(), strict=True))


def _cut(costs: list[tuple[bytes, float]], kept: list[bool], cutter: Cutter) -> list[Segment]:
    """A segment anew, neighbours of one kind joined."""
    found, start = [], 0
    for end in range(1, len(kept) + 1):
        if end < len(kept) and kept[end] == kept[start]:
            continue
        data = b"".join(piece for piece, _ in costs[start:end])
        found += cutter.encoded(data) if kept[start] else [Segment(data, None)]
        start = end
    return found
