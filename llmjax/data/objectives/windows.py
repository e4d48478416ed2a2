"""Rows as windows of the token stream. Pure NumPy; memory is proportional to the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data.batch import BatchSpec, per_token
from llmjax.data.text.sharded import TokenStream

Keys = Sequence[tuple[int, ...]]
"""The seed of each row's random numbers."""


class Windows(NamedTuple):
    """R windows of L tokens each."""

    tokens: np.ndarray
    """int32 [R, L]."""
    previous: np.ndarray
    """int32 [R, L]: the preceding token in the stream; of another document where `first`."""
    first: np.ndarray
    """bool [R, L]: whether the token begins a document."""
    segments: np.ndarray
    """int32 [R, L]: the document's number in the row, from 1; 0 in padding."""
    positions: np.ndarray
    """int32 [R, L]: from 0 in every segment; 0 in padding."""

    def take(self, rows: np.ndarray) -> "Windows":
        """The given rows."""
        return Windows(*(array[rows] for array in self))


def read_windows(store: TokenStream, starts: np.ndarray, sizes: np.ndarray, length: int) -> Windows:
    """Reads windows of a store, whose end is followed by its beginning.

    Args:
      store: at least one token.
      starts: int64 [R], offset of each row.
      sizes: int64 [R], tokens of each row; the rest is padding.
      length: L.
    """
    columns = np.arange(length)
    indices = (starts[:, None] + np.arange(-1, length)) % store.num_tokens
    tokens, first = store.read(indices)
    first = first[:, 1:]
    real = columns < sizes[:, None]
    boundary = first.copy()
    boundary[:, 0] = True  # possibly within a document
    begin = np.maximum.accumulate(np.where(boundary, columns, 0), axis=1)
    return Windows(
        tokens=tokens[:, 1:],
        previous=tokens[:, :-1],
        first=first,
        segments=np.where(real, np.cumsum(boundary, axis=1), 0).astype(np.int32),
        positions=np.where(real, columns - begin, 0).astype(np.int32),
    )


def split_points(segments: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Draws the position at which each document of a row is split, int64 [highest segment + 1].

    1 to n - 1 for a document of n tokens; 0 for padding and documents of a single token.
    """
    sizes = np.bincount(segments)
    sizes[0] = 0
    cuts = np.random.default_rng(key).integers(1, np.maximum(sizes, 2))
    return np.where(sizes > 1, cuts, 0)


def row_spec(rows: int, length: int, pad: int) -> BatchSpec:
    """BatchSpec of a single stack: inputs, targets, weights, segments, positions [rows, length]."""
    tokens, numbers = per_token(rows, length, padding=pad), per_token(rows, length)
    return {
        "inputs": tokens,
        "targets": tokens,
        "weights": per_token(rows, length, "float32"),
        "segments": numbers,
        "positions": numbers,
    }


def pair_spec(rows: int, target: int, source: int, pad: int) -> BatchSpec:
    """BatchSpec of an encoder-decoder: `row_spec` for the decoder, and the encoder's arrays."""
    numbers = per_token(rows, source)
    return {
        **row_spec(rows, target, pad),
        "encoder_tokens": per_token(rows, source, padding=pad),
        "encoder_segments": numbers,
        "encoder_positions": numbers,
    }
