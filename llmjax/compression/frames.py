"""A frame: up to a mebibyte of the original, coded by whatever makes it smallest.

A model frame holds, in varints unless said otherwise:

    the number of segments, and for each 2 x its tokens, or 2 x its bytes + 1 where it is no text
    2 x the length of what follows, + 1 if that is a zstd frame: the segments that are no text
    the length of each lane's bytes, as `packed_numbers` says; then these bytes
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from llmjax.compression.archive import MODEL, STORED, ZSTD, Cursor, varint
from llmjax.compression.damage import damaged
from llmjax.compression.lanes import Walker
from llmjax.compression.packing import packed, packed_numbers, unpacked, unpacked_numbers
from llmjax.compression.relief import relieve
from llmjax.compression.segments import Cutter, Segment
from llmjax.compression.stream import Coded, Report, decode_tokens, encode_tokens

FRAME = 1 << 20
"""Bytes of the original in a frame; lanes start anew in each."""

WORTH = 0.98
"""Of its size: what a frame has to come to, before the model codes it once more with less text."""


@dataclass(frozen=True)
class Frame:
    """A coded frame.

    Attributes:
      kind: STORED, ZSTD or MODEL.
      content: the bytes of the frame.
      coded: what the model made of its text, also where that was not the smallest; None where
        there is no text.
      tokens: int32 [n], that text.
    """

    kind: int
    content: bytes
    coded: Coded | None = None
    tokens: np.ndarray | None = None


def encode_frame(
    walker: Callable[[], Walker],
    data: bytes,
    segments: list[Segment],
    cutter: Cutter | None,
    report: Report,
) -> Frame:
    """Codes a stretch of the original.

    Args:
      walker: gives the model; called only where there is text.
      data: the stretch, at most FRAME bytes.
      segments: what it consists of.
      cutter: what cut them, where something else than the model may have text that takes fewer
        bytes so; None: the model has all.
      report: told of progress.
    """
    others = [Frame(STORED, data), Frame(ZSTD, packed(data))]
    if all(segment.tokens is None for segment in segments):
        return min(others, key=_size)
    first = _by_model(walker(), segments, report)
    if cutter is None:
        return first
    best = min(*others, first, key=_size)
    assert first.coded is not None
    relief = relieve(segments, first.coded.bits, cutter)
    if relief is not None and relief.size < WORTH * _size(best):
        best = min(best, _by_model(walker(), relief.segments, report), key=_size)
    return best if best.kind == MODEL else replace(best, coded=first.coded, tokens=first.tokens)


def decode_frame(walker: Callable[[], Walker], kind: int, content: bytes, report: Report) -> bytes:
    """The original of a frame.

    Raises:
      UserError: the content does not fit the model or itself, or stands for more than `FRAME`.
    """
    if kind == MODEL:
        data = _decoded(walker, content, report)
    else:
        data = content if kind == STORED else unpacked(content, FRAME)
    if len(data) > FRAME:
        raise damaged("a frame holds more than any can")
    return data


def _decoded(walker: Callable[[], Walker], content: bytes, report: Report) -> bytes:
    """The original of a frame of the model."""
    cursor = Cursor(content)
    sizes = [cursor.varint() for _ in range(_limited(cursor.varint()))]
    rest = cursor.varint()
    others = cursor.take(rest >> 1)
    other = Cursor(unpacked(others, 2 * FRAME) if rest & 1 else others)
    ready = walker()
    lengths = unpacked_numbers(cursor, ready.shape.lanes)
    lanes = [cursor.take(length) for length in lengths]
    count = _limited(sum(size >> 1 for size in sizes if not size & 1))
    if not count:
        raise damaged("a frame of the model has no text")
    tokens = decode_tokens(ready, lanes, count, report)
    return _original(ready, sizes, tokens, other)


def _by_model(walker: Walker, segments: list[Segment], report: Report) -> Frame:
    tokens = np.concatenate([one.tokens for one in segments if one.tokens is not None])
    coded = encode_tokens(walker, tokens, report)
    return Frame(MODEL, _content(segments, coded), coded, tokens)


def _size(frame: Frame) -> int:
    return len(frame.content)


def _content(segments: list[Segment], coded: Coded) -> bytes:
    sizes = [
        2 * len(segment.data) + 1 if segment.tokens is None else 2 * len(segment.tokens)
        for segment in segments
    ]
    others = b"".join(segment.data for segment in segments if segment.tokens is None)
    small = packed(others)
    flag = len(small) < len(others)
    kept = small if flag else others
    numbers = [len(sizes), *sizes, 2 * len(kept) + flag]
    lengths = packed_numbers([len(lane) for lane in coded.lanes])
    return b"".join([*map(varint, numbers), kept, lengths, *coded.lanes])


def _original(walker: Walker, sizes: list[int], tokens: np.ndarray, others: Cursor) -> bytes:
    """Segments put together again."""
    parts, place = [], 0
    for size in sizes:
        if size & 1:
            parts.append(others.take(size >> 1))
        else:
            part = tokens[place : place + (size >> 1)].tolist()
            parts.append(walker.lm.tokenizer.decode_bytes(part))
            place += size >> 1
    return b"".join(parts)


def _limited(count: int) -> int:
    """A count that can be right: no frame holds more."""
    if count > 2 * FRAME:
        raise damaged("a frame claims to hold more than any can")
    return count
