"""Several stores of documents, read as one stream of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmjax.data.text.store import TokenStore


class TokenStream(Protocol):
    """Documents end to end, each ending with EOS, read at random."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The tokens at `indices`: int32, of the same shape.

        Raises:
          UserError: a file was damaged since it was written.
        """

    def document_starts(self, indices: np.ndarray) -> np.ndarray:
        """Where the document of each token begins: int64, of the same shape."""

    @property
    def num_tokens(self) -> int:
        """Including the EOS of each document."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the original text."""

    @property
    def num_documents(self) -> int:
        """Number of documents."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The parts of several stores that form a stream: runs of complete documents, in order."""

    starts: np.ndarray
    """int64 [runs]: where each begins in the stream, ascending from 0."""
    stores: np.ndarray
    """int64 [runs]: index of its store."""
    origins: np.ndarray
    """int64 [runs]: where it begins in its store."""


@dataclass(frozen=True, eq=False)
class ShardedStore:
    """Runs of documents of several stores as one TokenStream. Nothing is copied."""

    stores: Sequence[TokenStore]
    runs: Runs
    num_tokens: int
    num_bytes: int
    num_documents: int

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See TokenStream."""
        tokens = np.empty(indices.shape, np.int32)
        for store, selected, _, places in self._located(indices):
            tokens[selected] = store.take(places)
        return tokens

    def document_starts(self, indices: np.ndarray) -> np.ndarray:
        """See TokenStream."""
        starts = np.empty(indices.shape, np.int64)
        for store, selected, shift, places in self._located(indices):
            starts[selected] = store.document_starts(places) + shift
        return starts

    def _located(
        self, indices: np.ndarray
    ) -> list[tuple[TokenStore, np.ndarray, np.ndarray, np.ndarray]]:
        """Of each store touched: a mask of its indices, their distance from the stream's start to
        the store's, and their places in the store."""
        run = np.searchsorted(self.runs.starts, indices, side="right") - 1
        shift = self.runs.starts[run] - self.runs.origins[run]
        owner = self.runs.stores[run]
        parts = []
        for number in np.unique(owner).tolist():
            selected = owner == number
            shifts = shift[selected]
            parts.append((self.stores[number], selected, shifts, indices[selected] - shifts))
        return parts
