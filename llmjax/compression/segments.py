"""Bytes as text that a tokenizer gives back exactly, and the rest.

What is no valid UTF-8, what does not compress (random data, however spelt), and what the tokenizer
would change stays as it is; each stretch of text becomes tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import zstandard

from llmjax.data.tokenizers.tokenizer import Tokenizer

PIECE = 4096
"""Bytes that are judged at once."""

SHORTEST = 32
"""Bytes of valid text between others below which it is not worth a segment of its own."""

TRIED = 2048
"""Bytes from which a piece has to show that it compresses."""

WORST = 0.74
"""Of its size: what zstd may leave of a piece of text. Written language leaves 0.4 to 0.65, random
numbers in base 64 leave 0.76."""


class Segment(NamedTuple):
    """A stretch of the input: bytes, and its tokens where it is text for the model."""

    data: bytes
    tokens: np.ndarray | None


@dataclass(frozen=True)
class Cutter:
    """Cuts bytes into segments.

    Attributes:
      tokenizer: the model's.
      allowed: bool [V], ids that the model may be asked for.
    """

    tokenizer: Tokenizer
    allowed: np.ndarray

    def cut(self, data: bytes) -> list[Segment]:
        """Segments whose data are `data`, one after the other; the same for the same data."""
        found: list[Segment] = []
        for part, is_text in _merged(_stretches(data)):
            found += self.encoded(part) if is_text else [Segment(part, None)]
        return joined(found)

    def encoded(self, data: bytes) -> list[Segment]:
        """Text as one segment; where the tokenizer would change it, as pieces of which some are."""
        tokens = self._tokens(data)
        if tokens is not None:
            return [Segment(data, tokens)]
        parts = [part for line in data.splitlines(keepends=True) for part in pieces(line, PIECE)]
        return [Segment(part, self._tokens(part)) for part in parts]

    def _tokens(self, data: bytes) -> np.ndarray | None:
        """Tokens that decode to just these bytes; None where there are none."""
        ids = self.tokenizer.encode(data.decode("utf-8"))
        tokens = np.array(ids, np.int32)
        if not ids or tokens.max() >= len(self.allowed) or not self.allowed[tokens].all():
            return None
        return tokens if self.tokenizer.decode_bytes(ids) == data else None


def _stretches(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Stretches of the data, and whether each is text."""
    compressor = zstandard.ZstdCompressor(level=3)
    for piece in pieces(data, PIECE):
        packed = len(compressor.compress(piece)) if len(piece) >= TRIED else 0
        zeros = piece.count(0)  # text has hardly any
        if zeros * 16 > len(piece) or packed > WORST * len(piece):
            yield piece, False
        else:
            yield from _valid(piece)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Consecutive pieces of about `size` bytes, which cut no character in two."""
    start = 0
    while start < len(data):
        end = min(start + size, len(data))
        while end < len(data) and end > start + size - 4 and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end


def _valid(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Valid UTF-8 and what is none, in turn."""
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


def _merged(stretches: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """Neighbours of one kind joined; short text beside other bytes counts as such."""
    groups: list[tuple[list[bytes], bool]] = []
    for data, is_text in stretches:
        if groups and groups[-1][1] == is_text:
            groups[-1][0].append(data)
        else:
            groups.append(([data], is_text))
    alone = len(groups) == 1
    joined: list[tuple[list[bytes], bool]] = []
    for parts, is_text in groups:
        is_text = is_text and (alone or sum(map(len, parts)) >= SHORTEST)
        if joined and joined[-1][1] == is_text:
            joined[-1][0].extend(parts)
        else:
            joined.append((parts, is_text))
    return ((b"".join(parts), is_text) for parts, is_text in joined)


def joined(segments: list[Segment]) -> list[Segment]:
    """Neighbours without tokens as one; segments with tokens stay apart, as they are decoded."""
    found: list[Segment] = []
    rest: list[bytes] = []
    for segment in [*segments, None]:
        if segment is not None and segment.tokens is None:
            rest.append(segment.data)
            continue
        if rest:
            found.append(Segment(b"".join(rest), None))
            rest = []
        if segment is not None:
            found.append(segment)
    return found
