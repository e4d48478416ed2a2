"""A frame: up to a mebibyte of the original, encoded by whatever makes it smallest.

A model frame holds, in varints unless said otherwise:

    the number of segments, and for each 2 x its tokens, or 2 x its bytes + 1 where it is raw
    2 x the length of what follows, + 1 if that is a zstd frame: the raw segments
    the length of each stream's bytes, as `pack_integers` writes them; then these bytes
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import zstandard

from llmjax.compression.archive import MODEL, STORED, ZSTD, FrameReader, varint
from llmjax.compression.codec import CodecStepper
from llmjax.compression.header import damaged
from llmjax.compression.segments import Segment, Segmenter, raw_fallback, zstd_compress
from llmjax.compression.streams import EncodedTokens, Report, decode_tokens, encode_tokens

FRAME = 1 << 20
"""Bytes of the original in a frame; each frame starts new streams."""

WORTH_IT = 0.98
"""The share of its size that a frame must come to before the model encodes it a second time."""

MAX_PACKED_BITS = 32

MAX_ZSTD_WINDOW = 1 << 23
"""Bytes that a zstd frame may look back on: more than our level asks for."""


@dataclass(frozen=True)
class Frame:
    """An encoded frame.

    Attributes:
      kind: STORED, ZSTD or MODEL.
      content: the bytes of the frame.
      encoded: its text as encoded by the model, even where that was not the smallest; None where
        there is no text.
      tokens: int32 [n], that text.
    """

    kind: int
    content: bytes
    encoded: EncodedTokens | None = None
    tokens: np.ndarray | None = None


def encode_frame(
    stepper: Callable[[], CodecStepper],
    data: bytes,
    segments: list[Segment],
    segmenter: Segmenter | None,
    report: Report,
) -> Frame:
    """Encodes a stretch of the original.

    Args:
      stepper: gives the model; called only where there is text.
      data: the stretch, at most FRAME bytes.
      segments: what it consists of.
      segmenter: what split them, where text that zstd makes smaller may become raw; None: all
        text is the model's.
      report: called with progress.
    """
    raw_frames = [Frame(STORED, data), Frame(ZSTD, zstd_compress(data))]
    if all(segment.tokens is None for segment in segments):
        return min(raw_frames, key=_size)
    first = _encode_by_model(stepper(), segments, report)
    if segmenter is None:
        return first
    best = min(*raw_frames, first, key=_size)
    assert first.encoded is not None
    fallback = raw_fallback(segments, first.encoded.bits, segmenter)
    if fallback is not None and fallback.size < WORTH_IT * _size(best):
        best = min(best, _encode_by_model(stepper(), fallback.segments, report), key=_size)
    return best if best.kind == MODEL else replace(best, encoded=first.encoded, tokens=first.tokens)


def decode_frame(
    stepper: Callable[[], CodecStepper], kind: int, content: bytes, report: Report
) -> bytes:
    """The original of a frame.

    Raises:
      UserError: the content contradicts the model or itself, or stands for more than `FRAME`.
    """
    if kind == MODEL:
        data = _decode_by_model(stepper, content, report)
    else:
        data = content if kind == STORED else zstd_decompress(content, FRAME)
    if len(data) > FRAME:
        raise damaged("a frame holds more than the format allows")
    return data


def _size(frame: Frame) -> int:
    return len(frame.content)


def _encode_by_model(stepper: CodecStepper, segments: list[Segment], report: Report) -> Frame:
    parts = [segment.tokens for segment in segments if segment.tokens is not None]
    tokens = np.concatenate(parts)
    encoded = encode_tokens(stepper, tokens, report)
    return Frame(MODEL, _content(segments, encoded), encoded, tokens)


def _content(segments: list[Segment], encoded: EncodedTokens) -> bytes:
    sizes = [
        2 * len(segment.data) + 1 if segment.tokens is None else 2 * len(segment.tokens)
        for segment in segments
    ]
    raw = b"".join(segment.data for segment in segments if segment.tokens is None)
    packed = zstd_compress(raw)
    flag = len(packed) < len(raw)
    kept = packed if flag else raw
    numbers = [len(sizes), *sizes, 2 * len(kept) + flag]
    lengths = pack_integers([len(stream) for stream in encoded.streams])
    return b"".join([*map(varint, numbers), kept, lengths, *encoded.streams])


def _decode_by_model(stepper: Callable[[], CodecStepper], content: bytes, report: Report) -> bytes:
    reader = FrameReader(content)
    sizes = [reader.varint() for _ in range(_limited(reader.varint()))]
    flagged = reader.varint()
    kept = reader.take(flagged >> 1)
    raw = FrameReader(zstd_decompress(kept, 2 * FRAME) if flagged & 1 else kept)
    model = stepper()
    lengths = unpack_integers(reader, model.layout.streams)
    streams = [reader.take(length) for length in lengths]
    count = _limited(sum(size >> 1 for size in sizes if not size & 1))
    if not count:
        raise damaged("a frame of the model has no text")
    tokens = decode_tokens(model, streams, count, report)
    parts, start = [], 0
    for size in sizes:
        if size & 1:
            parts.append(raw.take(size >> 1))
        else:
            ids = tokens[start : start + (size >> 1)].tolist()
            parts.append(model.lm.tokenizer.decode_bytes(ids))
            start += size >> 1
    return b"".join(parts)


def _limited(count: int) -> int:
    """A plausible count: no frame holds more."""
    if count > 2 * FRAME:
        raise damaged("a frame claims more than the format allows")
    return count


def zstd_decompress(data: bytes, limit: int) -> bytes:
    """The content of a zstd frame; UserError where it is none, or holds over `limit` bytes."""
    try:
        if zstandard.get_frame_parameters(data).content_size > limit:
            raise damaged("a frame claims more than the format allows")
        inner = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        return inner.decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise damaged(str(error)) from error


def pack_integers(numbers: list[int]) -> bytes:
    """The minimum (varint), the bits of the largest difference to it (1 byte), and the
    differences in so many bits each, least significant first, padded to a whole byte."""
    least = min(numbers)
    bits = (max(numbers) - least).bit_length()
    differences = np.array(numbers, np.int64)[:, None] - least
    places = (differences >> np.arange(bits) & 1).astype(np.uint8)
    return varint(least) + bytes([bits]) + np.packbits(places, bitorder="little").tobytes()


def unpack_integers(reader: FrameReader, count: int) -> list[int]:
    """`count` integers of `pack_integers`; UserError where they are cut short or too large."""
    least, bits = reader.varint(), reader.take(1)[0]
    if bits > MAX_PACKED_BITS:
        raise damaged("a frame claims more than the format allows")
    data = np.frombuffer(reader.take(-(-count * bits // 8)), np.uint8)
    places = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    return (least + (places.astype(np.int64) << np.arange(bits)).sum(-1)).tolist()
