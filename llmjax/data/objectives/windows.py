"""Rows as windows of the stream of documents. Pure NumPy; memory in proportion to the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data.batch import BatchSpec, per_token
from llmjax.data.text.store import TokenStore

Keys = Sequence[tuple[int, ...]]
"""For each row the numbers that seed what is drawn for it."""


class Windows(NamedTuple):
    """R rows of L tokens of the stream."""

    tokens: np.ndarray
    """int32 [R, L]."""
    previous: np.ndarray
    """int32 [R, L]: the token before each in the stream; another document's where `first`."""
    first: np.ndarray
    """bool [R, L]: begins a document."""
    segments: np.ndarray
    """int32 [R, L]: documents of the row count from 1; 0 is padding."""
    positions: np.ndarray
    """int32 [R, L]: count from 0 in every segment; 0 in padding."""

    def take(self, rows: np.ndarray) -> "Windows":
        """Some of the rows."""
        return Windows(*(array[rows] for array in self))


def windows(store: TokenStore, starts: np.ndarray, sizes: np.ndarray, length: int) -> Windows:
    """Cuts windows out of a store, whose end is followed by its beginning.

    Args:
      store: at least one token.
      starts: int64 [R], where in the stream each row begins.
      sizes: int64 [R], how many of its tokens are real; the rest is padding.
      length: L.
    """
    columns = np.arange(length)
    at = (starts[:, None] + np.arange(-1, length)) % store.num_tokens
    tokens = store.at(at)
    real = columns < sizes[:, None]
    at = at[:, 1:]
    # The document of each place; offsets[d] is where document d begins.
    document = np.searchsorted(store.offsets, at.ravel(), side="right").reshape(at.shape) - 1
    first = at == store.offsets[document]
    boundary = first.copy()
    boundary[:, 0] = True  # the middle of a document, if need be
    begin = np.maximum.accumulate(np.where(boundary, columns, 0), axis=1)
    return Windows(
        tokens=tokens[:, 1:],
        previous=tokens[:, :-1],
        first=first,
        segments=np.where(real, np.cumsum(boundary, axis=1), 0).astype(np.int32),
        positions=np.where(real, columns - begin, 0).astype(np.int32),
    )


def cut_places(segments: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
    """Where each document of a row is cut, int64 [its highest segment + 1].

    Of n tokens, 1 to n - 1 are before the cut; 0 stands for segments of a single token and padding.
    """
    sizes = np.bincount(segments)
    sizes[0] = 0
    cuts = np.random.default_rng(key).integers(1, np.maximum(sizes, 2))
    return np.where(sizes > 1, cuts, 0)


def row_spec(rows: int, length: int, pad: int) -> BatchSpec:
    """Of a batch for one stack: inputs, targets, weights, segments, positions [rows, length]."""
    tokens, numbers = per_token(rows, length, padding=pad), per_token(rows, length)
    return {
        "inputs": tokens,
        "targets": tokens,
        "weights": per_token(rows, length, "float32"),
        "segments": numbers,
        "positions": numbers,
    }


def pair_spec(rows: int, target: int, source: int, pad: int) -> BatchSpec:
    """Of a batch for an encoder-decoder: `row_spec` for the decoder, and what the encoder reads."""
    numbers = per_token(rows, source)
    return {
        **row_spec(rows, target, pad),
        "encoder_tokens": per_token(rows, source, padding=pad),
        "encoder_segments": numbers,
        "encoder_positions": numbers,
    }
