"""Tokenized documents on disk, memory-mapped: never more in memory than is being read."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.errors import UserError

# Part of every cache's key: raise it when the files change, or the way text becomes documents.
FORMAT = 1
_DESCRIPTION = "description.json"


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents end to end, each ending with EOS."""

    tokens: np.ndarray
    """uint16 or uint32 [tokens], memory-mapped."""
    offsets: np.ndarray
    """int64 [documents + 1]: document d is tokens[offsets[d] : offsets[d + 1]]."""
    byte_offsets: np.ndarray
    """int64 [documents + 1]: the same for the UTF-8 bytes of the original text."""
    hashes: np.ndarray
    """uint64 [documents]: `document_hash` of each."""

    @property
    def num_tokens(self) -> int:
        """With the EOS of each document."""
        return len(self.tokens)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the original text."""
        return int(self.byte_offsets[-1])

    @property
    def num_documents(self) -> int:
        return len(self.hashes)


def token_dtype(vocab_size: int) -> np.dtype:
    """The narrowest unsigned type that holds every id."""
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


class StoreWriter:
    """Appends documents to the files of a store; `close` makes them complete."""

    def __init__(self, folder: Path, dtype: np.dtype):
        folder.mkdir(parents=True)
        self._dtype = dtype
        self._files = {
            name: (folder / f"{name}.bin").open("wb")
            for name in ("tokens", "offsets", "byte_offsets", "hashes")
        }
        self.num_tokens = self.num_bytes = self.num_documents = 0
        for name in ("offsets", "byte_offsets"):
            self._files[name].write(np.zeros(1, "<i8").tobytes())

    def append(
        self, tokens: np.ndarray, counts: np.ndarray, sizes: np.ndarray, hashes: np.ndarray
    ) -> None:
        """Adds documents.

        Args:
          tokens: [sum(counts)], EOS included.
          counts: int64 [documents], tokens of each.
          sizes: int64 [documents], UTF-8 bytes of each.
          hashes: uint64 [documents].
        """
        self._files["tokens"].write(tokens.astype(self._dtype).tobytes())
        offsets = self.num_tokens + np.cumsum(counts)
        self._files["offsets"].write(offsets.astype("<i8").tobytes())
        offsets = self.num_bytes + np.cumsum(sizes)
        self._files["byte_offsets"].write(offsets.astype("<i8").tobytes())
        self._files["hashes"].write(hashes.astype("<u8").tobytes())
        self.num_tokens += int(counts.sum())
        self.num_bytes += int(sizes.sum())
        self.num_documents += len(counts)

    def close(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()


def open_store(folder: Path, dtype: np.dtype) -> TokenStore:
    """Maps the files that a StoreWriter wrote."""
    try:
        store = TokenStore(
            tokens=_map(folder / "tokens.bin", dtype),
            offsets=_map(folder / "offsets.bin", np.dtype("<i8")),
            byte_offsets=_map(folder / "byte_offsets.bin", np.dtype("<i8")),
            hashes=_map(folder / "hashes.bin", np.dtype("<u8")),
        )
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    documents = store.num_documents
    whole = len(store.offsets) == len(store.byte_offsets) == documents + 1
    if not whole or store.offsets[-1] != store.num_tokens:
        raise _damaged(folder, "its files do not fit together")
    return store


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # nothing cannot be mapped
        return np.zeros(0, dtype)
    return np.asarray(np.memmap(path, dtype, mode="r"))


def _damaged(folder: Path, why: str) -> UserError:
    return UserError(folder, f"the cache is damaged: {why}", "remove the folder")


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Says what is in a cache folder; the last file written to it."""
    content = {"format": FORMAT, **description}
    with (folder / _DESCRIPTION).open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_description(folder: Path) -> dict[str, Any]:
    """Raises UserError where the folder is not a complete cache."""
    try:
        return json.loads((folder / _DESCRIPTION).read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
