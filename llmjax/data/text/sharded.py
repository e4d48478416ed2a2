"""Several stores of documents, read as one stream of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from llmjax.data.text.store import Tokens, TokenStore


class TokenStream(Protocol):
    """Documents end to end, each ending with EOS, read at random."""

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The tokens at `indices`: int32, of the same shape.

        Raises:
          UserError: a file was damaged since it was written.
        """

    def read(self, indices: np.ndarray) -> Tokens:
        """As `take`, with whether each token begins a document."""

    @property
    def num_tokens(self) -> int:
        """Including the EOS of each document."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the original text."""

    @property
    def num_documents(self) -> int:
        """Number of documents."""

    @property
    def is_remote(self) -> bool:
        """Whether reading waits for the answers of a bucket."""


RUNS = ("starts", "stores", "origins")
"""The fields of Runs, which are the names of files."""


@dataclass(frozen=True, eq=False)
class Runs:
    """The parts of several stores that form a stream: runs of complete documents, in order."""

    starts: np.ndarray
    """int64 [runs]: where each begins in the stream, ascending from 0."""
    stores: np.ndarray
    """int64 [runs]: index of its store."""
    origins: np.ndarray
    """int64 [runs]: where it begins in its store."""

    @classmethod
    def map(cls, folder: Path) -> "Runs":
        """Maps the files of a folder, NAME.bin of each field: int64, little-endian."""
        files = (folder / f"{name}.bin" for name in RUNS)
        return cls(
            *(
                np.asarray(np.memmap(file, "<i8", mode="r"))
                if file.stat().st_size
                else np.zeros(0, np.int64)  # an empty file cannot be mapped
                for file in files
            )
        )

    def locate(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The store of each index into the stream, and its place there: int64, of its shape."""
        run = np.searchsorted(self.starts, indices, side="right") - 1
        return self.stores[run], indices - self.starts[run] + self.origins[run]


@dataclass(frozen=True, eq=False)
class ShardedStore:
    """Runs of documents of several stores as one TokenStream. Nothing is copied."""

    stores: Sequence[TokenStore]
    runs: Runs
    num_tokens: int
    num_bytes: int
    num_documents: int
    is_remote: ClassVar[bool] = False

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See TokenStream."""
        tokens = np.empty(indices.shape, np.int32)
        for store, selected, places in self._located(indices):
            tokens[selected] = store.take(places)
        return tokens

    def read(self, indices: np.ndarray) -> Tokens:
        """See TokenStream."""
        tokens = Tokens(np.empty(indices.shape, np.int32), np.empty(indices.shape, bool))
        for store, selected, places in self._located(indices):
            tokens.ids[selected], tokens.first[selected] = store.read(places)
        return tokens

    def _located(self, indices: np.ndarray) -> list[tuple[TokenStore, np.ndarray, np.ndarray]]:
        """Of each store touched: a mask of its indices, and their places in the store."""
        owner, places = self.runs.locate(indices)
        masks = [(number, owner == number) for number in np.unique(owner).tolist()]
        return [(self.stores[number], mask, places[mask]) for number, mask in masks]
