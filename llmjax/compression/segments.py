"""Splits bytes into text that the tokenizer reproduces exactly, and raw bytes.

Bytes stay raw if they are not valid UTF-8, do not compress (random data in any encoding), or would
be changed by the tokenizer; other text becomes tokens. Once the model's cost of each token is
known, text that zstd makes smaller becomes raw as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import zstandard

from llmjax.data.tokenizers.tokenizer import Tokenizer

PIECE = 4096
"""Bytes that are classified together."""

MIN_TEXT = 32
"""Minimum bytes of valid text between raw bytes for a separate segment."""

MIN_TRIED = 2048
"""Minimum bytes of a piece for which compressibility is tested."""

MAX_RATIO = 0.74
"""Maximum zstd ratio of a piece of text. Natural language has 0.4 to 0.65, random numbers in base
64 have 0.76."""

SPLIT_COST = 32
"""Bytes that making a piece raw must save, as it splits the surrounding text in two."""

LEVEL = 19
"""Level of zstd for stored output."""


def zstd_compress(data: bytes) -> bytes:
    """Compresses bytes to a zstd frame."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=False).compress(data)


class Segment(NamedTuple):
    """A part of the input: its bytes, and its tokens if it is text for the model."""

    data: bytes
    tokens: np.ndarray | None


@dataclass(frozen=True)
class Segmenter:
    """Splits bytes into segments.

    Attributes:
      tokenizer: the model's tokenizer.
      allowed: bool [V], which token ids the model can encode.
    """

    tokenizer: Tokenizer
    allowed: np.ndarray

    def split(self, data: bytes) -> list[Segment]:
        """Splits data into segments, deterministically."""
        segments: list[Segment] = []
        for part, is_text in _merge(_classify(data)):
            segments += self.encode(part) if is_text else [Segment(part, None)]
        return join_raw(segments)

    def encode(self, data: bytes) -> list[Segment]:
        """Tokenizes text as one segment, or piece by piece if the tokenizer would change it."""
        tokens = self._tokens(data)
        if tokens is not None:
            return [Segment(data, tokens)]
        parts = [part for line in data.splitlines(keepends=True) for part in pieces(line, PIECE)]
        return [Segment(part, self._tokens(part)) for part in parts]

    def _tokens(self, data: bytes) -> np.ndarray | None:
        """Returns tokens that decode to exactly these bytes, or None if there are none."""
        ids = self.tokenizer.encode(data.decode("utf-8"))
        tokens = np.array(ids, np.int32)
        if not ids or tokens.max() >= len(self.allowed) or not self.allowed[tokens].all():
            return None
        return tokens if self.tokenizer.decode_bytes(ids) == data else None


def _classify(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields consecutive parts of the data, and whether each is text."""
    compressor = zstandard.ZstdCompressor(level=3)
    for piece in pieces(data, PIECE):
        packed = len(compressor.compress(piece)) if len(piece) >= MIN_TRIED else 0
        zeros = piece.count(0)  # rare in text
        if zeros * 16 > len(piece) or packed > MAX_RATIO * len(piece):
            yield piece, False
        else:
            yield from _valid_utf8(piece)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yields consecutive pieces of about `size` bytes, without splitting characters."""
    start = 0
    while start < len(data):
        end = min(start + size, len(data))
        while end < len(data) and end > start + size - 4 and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end


def _valid_utf8(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yields parts of valid and of invalid UTF-8, and whether each is valid."""
    while data:
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start:
                yield data[: error.start], True
            yield data[error.start : error.end], False
            data = data[error.end :]
        else:
            yield data, True
            return


def _merge(classified: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Joins adjacent parts of the same type; short text next to raw bytes counts as raw."""
    groups: list[tuple[list[bytes], bool]] = []
    for data, is_text in classified:
        if groups and groups[-1][1] == is_text:
            groups[-1][0].append(data)
        else:
            groups.append(([data], is_text))
    single = len(groups) == 1
    merged: list[tuple[list[bytes], bool]] = []
    for parts, is_text in groups:
        is_text = is_text and (single or sum(map(len, parts)) >= MIN_TEXT)
        if merged and merged[-1][1] == is_text:
            merged[-1][0].extend(parts)
        else:
            merged.append((parts, is_text))
    return ((b"".join(parts), is_text) for parts, is_text in merged)


def join_raw(segments: list[Segment]) -> list[Segment]:
    """Joins adjacent raw segments; segments with tokens stay separate, as each is decoded alone."""
    result: list[Segment] = []
    raw: list[bytes] = []
    for segment in [*segments, None]:
        if segment is not None and segment.tokens is None:
            raw.append(segment.data)
            continue
        if raw:
            result.append(Segment(b"".join(raw), None))
            raw = []
        if segment is not None:
            result.append(segment)
    return result


class RawFallback(NamedTuple):
    """A frame with less text.

    Attributes:
      segments: its segments, with more raw bytes than before.
      size: its estimated size in bytes, from the known costs.
    """

    segments: list[Segment]
    size: float


def raw_fallback(
    segments: list[Segment], bits: np.ndarray, segmenter: Segmenter
) -> RawFallback | None:
    """Makes each piece of text raw that zstd alone makes smaller than the model did.

    Args:
      segments: the segments of a frame.
      bits: float64 [tokens], the cost of each of their tokens.
      segmenter: the segmenter that split them.

    Returns:
      The new segments, or None if no piece becomes raw or no text would be left.
    """
    sizes, start, text_bits, changed = segmenter.tokenizer.token_bytes(), 0, 0.0, False
    result: list[Segment] = []
    for segment in segments:
        if segment.tokens is None:
            result.append(segment)
            continue
        costs = _piece_costs(segment, bits[start : start + len(segment.tokens)], sizes)
        start += len(segment.tokens)
        kept = [cost <= 8 * (len(zstd_compress(piece)) + SPLIT_COST) for piece, cost in costs]
        text_bits += sum(cost for (_, cost), keep in zip(costs, kept, strict=True) if keep)
        result += [segment] if all(kept) else _split_text(costs, kept, segmenter)
        changed = changed or not all(kept)
    if not changed or all(segment.tokens is None for segment in result):
        return None
    raw = b"".join(segment.data for segment in result if segment.tokens is None)
    return RawFallback(join_raw(result), text_bits / 8 + len(zstd_compress(raw)))


def _piece_costs(
    segment: Segment, bits: np.ndarray, sizes: np.ndarray
) -> list[tuple[bytes, float]]:
    """Returns the pieces of a segment, and the cost in bits of the tokens that end in each."""
    parts = list(pieces(segment.data, PIECE))
    token_ends = np.cumsum(sizes[segment.tokens])
    stops = np.searchsorted(token_ends, np.cumsum([len(part) for part in parts]), side="right")
    stops[-1] = len(bits)  # a token may stand for a space that is not in the text
    sums = np.concatenate([[0.0], np.cumsum(bits)])[np.concatenate([[0], stops])]
    return list(zip(parts, np.diff(sums).tolist(), strict=True))


def _split_text(
    costs: list[tuple[bytes, float]], kept: list[bool], segmenter: Segmenter
) -> list[Segment]:
    """Converts pieces to segments, joining adjacent pieces of the same type."""
    result, start = [], 0
    for end in range(1, len(kept) + 1):
        if end < len(kept) and kept[end] == kept[start]:
            continue
        data = b"".join(piece for piece, _ in costs[start:end])
        result += segmenter.encode(data) if kept[start] else [Segment(data, None)]
        start = end
    return result
