"""Frames: up to a mebibyte of the original each, in the smallest of three encodings.

A model frame consists of (integers are varints unless stated otherwise):

    the number of segments, and for each 2 x its tokens, or 2 x its bytes + 1 if it is raw
    2 x the length of the raw segments, + 1 if they are a zstd frame; the raw segments
    the length of each stream in bytes, in the format of `pack_integers`; the streams
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
"""Bytes of the original per frame; each frame starts new streams."""

MAX_REENCODED_RATIO = 0.98
"""Encode a frame a second time only if it should shrink to this share of its size."""

MAX_PACKED_BITS = 32

MAX_ZSTD_WINDOW = 1 << 23
"""Window size limit of zstd frames, in bytes; our compression level stays below it."""


@dataclass(frozen=True)
class Frame:
    """An encoded frame.

    Attributes:
      kind: STORED, ZSTD or MODEL.
      content: the bytes of the frame.
      encoded: the model's encoding of its text, even if that was not the smallest; None without
        text.
      tokens: int32 [n], the tokens of that text.
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
    """Encodes a block of the original.

    Args:
      stepper: returns the model's stepper; called only if there is text.
      data: the block, at most FRAME bytes.
      segments: the segments of the block.
      segmenter: the segmenter that split it, to make text raw if zstd makes it smaller; None leaves
        all text to the model.
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
    if fallback is not None and fallback.size < MAX_REENCODED_RATIO * _size(best):
        best = min(best, _encode_by_model(stepper(), fallback.segments, report), key=_size)
    return best if best.kind == MODEL else replace(best, encoded=first.encoded, tokens=first.tokens)


def decode_frame(
    stepper: Callable[[], CodecStepper], kind: int, content: bytes, report: Report
) -> bytes:
    """Decodes a frame.

    Raises:
      UserError: the content contradicts the model or itself, or decodes to more than `FRAME` bytes.
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
    is_packed = len(packed) < len(raw)
    stored = packed if is_packed else raw
    integers = [len(sizes), *sizes, 2 * len(stored) + is_packed]
    lengths = pack_integers([len(stream) for stream in encoded.streams])
    return b"".join([*map(varint, integers), stored, lengths, *encoded.streams])


def _decode_by_model(stepper: Callable[[], CodecStepper], content: bytes, report: Report) -> bytes:
    reader = FrameReader(content)
    sizes = [reader.varint() for _ in range(_limited(reader.varint()))]
    stored_size, is_packed = divmod(reader.varint(), 2)
    stored = reader.take(stored_size)
    raw = FrameReader(zstd_decompress(stored, 2 * FRAME) if is_packed else stored)
    model = stepper()
    lengths = unpack_integers(reader, model.layout.streams)
    streams = [reader.take(length) for length in lengths]
    count = _limited(sum(size >> 1 for size in sizes if not size & 1))
    if not count:
        raise damaged("a model frame has no text")
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
    """Returns the count; raises UserError if no frame can have as many."""
    if count > 2 * FRAME:
        raise damaged("a frame claims more than the format allows")
    return count


def zstd_decompress(data: bytes, limit: int) -> bytes:
    """Decompresses a zstd frame; raises UserError if it is not one, or exceeds `limit` bytes."""
    try:
        if zstandard.get_frame_parameters(data).content_size > limit:
            raise damaged("a frame claims more than the format allows")
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
        return decompressor.decompress(data, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise damaged(str(error)) from error


def pack_integers(numbers: list[int]) -> bytes:
    """Encodes integers as the minimum (varint), the bit width of the largest difference from it
    (1 byte), and the differences in that width, least significant bit first, padded to a byte."""
    minimum = min(numbers)
    width = (max(numbers) - minimum).bit_length()
    differences = np.array(numbers, np.int64)[:, None] - minimum
    bits = (differences >> np.arange(width) & 1).astype(np.uint8)
    return varint(minimum) + bytes([width]) + np.packbits(bits, bitorder="little").tobytes()


def unpack_integers(reader: FrameReader, count: int) -> list[int]:
    """Decodes `count` integers; raises UserError if they are cut short or too wide."""
    minimum, width = reader.varint(), reader.take(1)[0]
    if width > MAX_PACKED_BITS:
        raise damaged("a frame claims more than the format allows")
    data = np.frombuffer(reader.take(-(-count * width // 8)), np.uint8)
    bits = np.unpackbits(data, count=count * width, bitorder="little").reshape(count, width)
    return (minimum + (bits.astype(np.int64) << np.arange(width)).sum(-1)).tolist()
