"""A frame: up to a mebibyte of the original, coded by whatever makes it smallest.

A model frame holds, in varints unless said otherwise:

    the number of segments, and for each 2 x its tokens, or 2 x its bytes + 1 where it is no text
    2 x the length of what follows, + 1 if that is a zstd frame: the segments that are no text
    the length of each lane's bytes, as many as there are lanes; then these bytes
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zstandard

from llmjax.compress.archive import MODEL, STORED, ZSTD, Cursor, damaged, varint
from llmjax.compress.lanes import Walker
from llmjax.compress.segments import Segment
from llmjax.compress.stream import Coded, Report, decode_tokens, encode_tokens
from llmjax.errors import UserError

FRAME = 1 << 20
"""Bytes of the original in a frame; lanes start anew in each."""

LEVEL = 19


@dataclass(frozen=True)
class Frame:
    """A coded frame.

    Attributes:
      kind: STORED, ZSTD or MODEL.
      content: the bytes of the frame.
      coded: what the model made of its text, also where that was not the smallest; None where
        there is no text.
      model_size: bytes of the model frame; None where there is no text.
    """

    kind: int
    content: bytes
    coded: Coded | None
    model_size: int | None


def encode_frame(
    walker: Callable[[], Walker],
    data: bytes,
    segments: list[Segment],
    fallback: bool,
    report: Report,
) -> Frame:
    """Codes a stretch of the original.

    Args:
      walker: gives the model; called only where there is text.
      data: the stretch, at most FRAME bytes.
      segments: what it consists of.
      fallback: whether something else than the model may have text, where it takes fewer bytes.
      report: told of progress.
    """
    candidates = [(STORED, data), (ZSTD, _zstd(data))]
    texts = [segment.tokens for segment in segments if segment.tokens is not None]
    coded = size = None
    if texts:
        coded = encode_tokens(walker(), np.concatenate(texts), report)
        content = _content(segments, coded)
        candidates = [*(candidates if fallback else []), (MODEL, content)]
        size = len(content)
    kind, content = min(candidates, key=lambda candidate: len(candidate[1]))
    return Frame(kind, content, coded, size)


def decode_frame(walker: Callable[[], Walker], kind: int, content: bytes, report: Report) -> bytes:
    """The original of a frame.

    Raises:
      UserError: the content does not fit the model or itself.
    """
    if kind == STORED:
        return content
    if kind == ZSTD:
        return _unzstd(content)
    cursor = Cursor(content)
    sizes = [cursor.varint() for _ in range(_limited(cursor.varint()))]
    rest = cursor.varint()
    others = cursor.take(rest >> 1)
    other = Cursor(_unzstd(others) if rest & 1 else others)
    ready = walker()
    lengths = [cursor.varint() for _ in range(ready.shape.lanes)]
    lanes = [cursor.take(length) for length in lengths]
    count = _limited(sum(size >> 1 for size in sizes if not size & 1))
    if not count:
        raise damaged("a frame of the model has no text")
    tokens = decode_tokens(ready, lanes, count, report)
    return _original(ready, sizes, tokens, other)


def _content(segments: list[Segment], coded: Coded) -> bytes:
    sizes = [
        2 * len(segment.data) + 1 if segment.tokens is None else 2 * len(segment.tokens)
        for segment in segments
    ]
    others = b"".join(segment.data for segment in segments if segment.tokens is None)
    packed = _zstd(others)
    flag = len(packed) < len(others)
    kept = packed if flag else others
    numbers = [len(sizes), *sizes, 2 * len(kept) + flag]
    lengths = b"".join(varint(len(lane)) for lane in coded.lanes)
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


def _zstd(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
    return compressor.compress(data)


def _unzstd(data: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size > 2 * FRAME:
            raise damaged("a frame claims to hold more than any can")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=2 * FRAME)
    except zstandard.ZstdError as error:
        raise UserError("the archive", f"is damaged: {error}") from error
