"""Tokenized documents on disk, memory-mapped: never more in memory than is being read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.data.text.block_sums import Blocks, SummedFile
from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged
from llmjax.storage.checksums import find_damage, write_manifest
from llmjax.storage.json_documents import read_json

# Part of every cache's key: raise it when the files change, or the way text becomes documents.
FORMAT = 2
_DESCRIPTION = "description.json"
_KINDS = {"offsets": "<i8", "byte_offsets": "<i8", "hashes": "<u8"}
_CHECKED_BY_BLOCK = [f"{name}.bin" for name in ("tokens", *_KINDS)]

VERIFIED_AT_ONCE = 1 << 30
"""Bytes of tokens up to which a store is verified as a whole when it is opened, so that a damaged
one is built again at once. Of a larger one, each block is verified before it is first used."""


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
    blocks: Blocks | None = None
    """The checksums of `tokens`; None of a store that is in memory."""

    def at(self, places: np.ndarray) -> np.ndarray:
        """int32, shaped like `places`: the tokens there.

        Raises:
          UserError: they are no longer as they were written.
        """
        if self.blocks is not None:
            self.blocks.verify(places)
        return self.tokens[places].astype(np.int32)

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

    def __init__(self, folder: Path, vocab_size: int):
        """Args:
        folder: made for it.
        vocab_size: ids are below it.
        """
        folder.mkdir(parents=True)
        self._vocab_size, self._dtype = vocab_size, token_dtype(vocab_size)
        self._files = {name: SummedFile(folder / f"{name}.bin") for name in ("tokens", *_KINDS)}
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

        Raises:
          UserError: an id is not below the size of the vocabulary.
        """
        if tokens.size and (highest := int(tokens.max())) >= self._vocab_size:
            reason = f"gives the id {highest}, and its vocabulary has {self._vocab_size}"
            raise UserError("tokenizer", reason, "check its files")
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
        """Writes what is left of all files to the disk."""
        for file in self._files.values():
            file.close()


def open_store(folder: Path, dtype: np.dtype) -> TokenStore:
    """Maps the files that a StoreWriter wrote; see VERIFIED_AT_ONCE.

    Raises:
      Damaged: they are not as they were written.
    """
    tokens, blocks = _map(folder / "tokens.bin", dtype)
    others = {name: _map(folder / f"{name}.bin", np.dtype(kind)) for name, kind in _KINDS.items()}
    if tokens.nbytes <= VERIFIED_AT_ONCE:
        blocks.verify_all()
    for _, sums in others.values():
        sums.verify_all()
    store = TokenStore(
        tokens, **{name: array for name, (array, _) in others.items()}, blocks=blocks
    )
    documents = store.num_documents
    whole = len(store.offsets) == len(store.byte_offsets) == documents + 1
    if not whole or store.offsets[-1] != store.num_tokens:
        raise Damaged(folder, "its files do not fit together")
    return store


def _map(path: Path, dtype: np.dtype) -> tuple[np.ndarray, Blocks]:
    try:
        empty = path.stat().st_size == 0  # nothing cannot be mapped
        array = np.zeros(0, dtype) if empty else np.asarray(np.memmap(path, dtype, mode="r"))
    except (OSError, ValueError) as error:
        why = f"its files do not fit together: {path.name}: {error}"
        raise Damaged(path.parent, why) from error
    return array, Blocks(path, array)


def close_cache(folder: Path, description: dict[str, Any]) -> None:
    """Completes a folder of stores and other files: says what is in it, and its checksums."""
    content = json.dumps({"format": FORMAT, **description}, indent=1)
    (folder / _DESCRIPTION).write_text(content + "\n")
    write_manifest(folder, _CHECKED_BY_BLOCK)


def open_cache(folder: Path) -> dict[str, Any]:
    """The description of a cache, all of whose files but those of stores are verified.

    Raises:
      Damaged: one is missing, or not as it was written.
    """
    if why := find_damage(folder, without=_CHECKED_BY_BLOCK):
        raise Damaged(folder, why)
    try:
        found: dict[str, Any] = read_json(folder / _DESCRIPTION)
    except UserError as error:
        raise Damaged(folder, f"{_DESCRIPTION} {error.reason}") from error
    return found
