"""Tokenized documents on disk, memory-mapped.

Large files are verified block by block as they are read. `tokens.crc` holds the size of
`tokens.bin` as int64, then the CRC-32 of each block.
"""

import contextlib
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from llmjax.errors import UserError
from llmjax.storage.cache_folders import Damaged
from llmjax.storage.checksums import find_damage, write_manifest
from llmjax.storage.json_documents import read_json

# Part of every cache key: increment it when the files or the splitting into documents change.
FORMAT = 2
_DESCRIPTION = "description.json"
_KINDS = {"offsets": "<i8", "byte_offsets": "<i8", "hashes": "<u8"}
_CHECKED_BY_BLOCK = [f"{name}.bin" for name in ("tokens", *_KINDS)]

VERIFIED_AT_ONCE = 1 << 30
"""Stores of up to this many bytes of tokens are verified completely when opened, so that a damaged
one is rebuilt at once. In larger ones each block is verified before its first use."""
BLOCK = 1 << 16
"""Bytes per block: small, so that reading a row verifies little beyond it."""
SUFFIX = ".crc"
_BATCH = 64  # blocks that a thread verifies at a time


class ChecksummedFile:
    """Writes a file sequentially, with its checksums."""

    def __init__(self, path: Path):
        self._path, self._file = path, path.open("wb")
        self._sums: list[int] = []
        self._size = self._sum = 0

    def write(self, data: bytes) -> None:
        """Appends `data`."""
        self._file.write(data)
        view = memoryview(data)
        while view:
            part = view[: BLOCK - self._size % BLOCK]
            self._sum = zlib.crc32(part, self._sum)
            self._size += len(part)
            view = view[len(part) :]
            if self._size % BLOCK == 0:
                self._sums.append(self._sum)
                self._sum = 0

    def close(self) -> None:
        """Flushes the file, and then its checksums, to disk."""
        if self._size % BLOCK:
            self._sums.append(self._sum)
        _finish(self._file)
        file = self._path.with_suffix(SUFFIX).open("wb")
        file.write(np.array(self._size, "<i8").tobytes() + np.array(self._sums, "<u4").tobytes())
        _finish(file)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


class VerifiedBlocks:
    """A mapped file whose blocks are verified before their first use. Thread-safe."""

    def __init__(self, path: Path, data: np.ndarray):
        """Args:
          path: written by ChecksummedFile.
          data: its content, of any dtype whose size divides BLOCK.

        Raises:
          Damaged: the checksums are missing, or belong to a file of another size.
        """
        self._path = path
        self._items = BLOCK // data.itemsize  # per block
        self._bytes = data.view(np.uint8)
        try:
            stored = path.with_suffix(SUFFIX).read_bytes()
        except OSError as error:
            raise self._damaged(f"{path.stem}{SUFFIX} is missing") from error
        count = -(-data.nbytes // BLOCK)
        if len(stored) != 8 + 4 * count or int(np.frombuffer(stored, "<i8", 1)[0]) != data.nbytes:
            raise self._damaged(f"its files do not fit together: {path.name}")
        self._sums = np.frombuffer(stored, "<u4", offset=8)
        self._verified = np.zeros(count, bool)
        self._all = count == 0

    def verify_all(self) -> None:
        """Verifies the whole file in several threads. Raises Damaged if a checksum differs."""
        count = len(self._sums)
        batches = [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]
        if len(batches) > 1:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._verify_batch, batches))
        elif batches:
            self._verify_batch(batches[0])
        self._all = True

    def verify(self, indices: np.ndarray) -> None:
        """Verifies the blocks that hold the items at `indices`, if not verified before.

        Raises:
          Damaged: a checksum differs. The checksums are removed, so that the cache is not opened
            again.
        """
        if self._all:
            return
        touched = np.zeros(len(self._sums), bool)
        touched[np.ravel(indices) // self._items] = True
        try:
            for block in np.flatnonzero(touched & ~self._verified).tolist():
                self._verify(block)
        except Damaged:
            with contextlib.suppress(OSError):
                self._path.with_suffix(SUFFIX).unlink()
            raise

    def _verify_batch(self, blocks: range) -> None:
        for block in blocks:
            self._verify(block)

    def _verify(self, block: int) -> None:
        start = block * BLOCK
        data = self._bytes[start : start + BLOCK]
        if zlib.crc32(data) != self._sums[block]:  # type: ignore[arg-type]
            span = f"{start:,} to {start + len(data):,}"
            raise self._damaged(f"{self._path.name} fails its checksum in bytes {span}")
        self._verified[block] = True

    def _damaged(self, why: str) -> Damaged:
        return Damaged(self._path.parent, why)


class Tokens(NamedTuple):
    """Tokens of a stream, in an array of any shape."""

    ids: np.ndarray
    """int32."""
    first: np.ndarray
    """bool: whether each begins a document."""


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
    blocks: VerifiedBlocks | None = None
    """The checksums of `tokens`; None for a store in memory."""
    is_remote: ClassVar[bool] = False

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The tokens at `indices`: int32, of the same shape.

        Raises:
          UserError: the file was damaged since it was written.
        """
        if self.blocks is not None:
            self.blocks.verify(indices)
        return self.tokens[indices].astype(np.int32)

    def read(self, indices: np.ndarray) -> "Tokens":
        """As `take`, with whether each token begins a document."""
        starts = self.offsets[np.searchsorted(self.offsets, indices, side="right") - 1]
        return Tokens(self.take(indices), indices == starts)

    def part(self, start: int, end: int) -> np.ndarray:
        """The tokens from `start` to before `end`, or to the last; nothing is copied.

        Raises:
          UserError: as `take`.
        """
        tokens = self.tokens[start:end]
        if self.blocks is not None and len(tokens):
            step = BLOCK // tokens.itemsize
            indices = np.arange(start, start + len(tokens), step)
            self.blocks.verify(np.append(indices, start + len(tokens) - 1))
        return tokens

    @property
    def num_tokens(self) -> int:
        """Including the EOS of each document."""
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
    """Writes a store by appending documents; `close` completes it."""

    def __init__(self, folder: Path, vocab_size: int):
        """Args:
        folder: must not exist; it is created.
        vocab_size: upper bound of the ids.
        """
        folder.mkdir(parents=True)
        self._vocab_size, self._dtype = vocab_size, token_dtype(vocab_size)
        self._files = {
            name: ChecksummedFile(folder / f"{name}.bin") for name in ("tokens", *_KINDS)
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
        """Flushes all files to disk."""
        for file in self._files.values():
            file.close()


def open_store(folder: Path, dtype: np.dtype, in_all: int = 0, tokens: Any = None) -> TokenStore:
    """Maps the files of a StoreWriter; see VERIFIED_AT_ONCE.

    Args:
      folder: the store's.
      dtype: of its tokens.
      in_all: bytes of tokens of all stores that are opened with it.
      tokens: what takes the place of tokens.bin, and verifies itself.

    Raises:
      Damaged: they do not match their checksums.
    """
    blocks = None
    if tokens is None:
        tokens, blocks = _map(folder / "tokens.bin", dtype)
    arrays = {name: _map(folder / f"{name}.bin", np.dtype(kind)) for name, kind in _KINDS.items()}
    if blocks is not None and max(tokens.nbytes, in_all) <= VERIFIED_AT_ONCE:
        blocks.verify_all()
    for _, sums in arrays.values():
        sums.verify_all()
    store = TokenStore(
        tokens, **{name: array for name, (array, _) in arrays.items()}, blocks=blocks
    )
    documents = store.num_documents
    consistent = len(store.offsets) == len(store.byte_offsets) == documents + 1
    if not consistent or store.offsets[-1] != store.num_tokens:
        raise Damaged(folder, "its files do not fit together")
    return store


def stored_bytes(folder: Path) -> int:
    """UTF-8 bytes of the text of a store; nothing else is read or verified."""
    with (folder / "byte_offsets.bin").open("rb") as file:
        file.seek(-8, os.SEEK_END)
        return int.from_bytes(file.read(8), "little")


def _map(path: Path, dtype: np.dtype) -> tuple[np.ndarray, VerifiedBlocks]:
    try:
        empty = path.stat().st_size == 0  # an empty file cannot be mapped
        array = np.zeros(0, dtype) if empty else np.asarray(np.memmap(path, dtype, mode="r"))
    except (OSError, ValueError) as error:
        why = f"its files do not fit together: {path.name}: {error}"
        raise Damaged(path.parent, why) from error
    return array, VerifiedBlocks(path, array)


def close_cache(folder: Path, description: dict[str, Any]) -> None:
    """Completes a cache folder: writes its description and checksums."""
    content = json.dumps({"format": FORMAT, **description}, indent=1)
    (folder / _DESCRIPTION).write_text(content + "\n")
    write_manifest(folder, _CHECKED_BY_BLOCK)


def open_cache(folder: Path) -> dict[str, Any]:
    """Reads a cache's description after verifying all its files but those of stores.

    Raises:
      Damaged: a file is missing or does not match its checksum.
    """
    if why := find_damage(folder, without=_CHECKED_BY_BLOCK):
        raise Damaged(folder, why)
    try:
        description: dict[str, Any] = read_json(folder / _DESCRIPTION)
    except UserError as error:
        raise Damaged(folder, f"{_DESCRIPTION} {error.reason}") from error
    return description
