"""Tokens in blocks that are read, and verified, one by one: from local files or from a bucket.

A file of a shard's tokens consists of records of equal size, without a header, each with BLOCK
tokens:

    tokens   BLOCK little-endian uint16 or uint32
    first    BLOCK bits, the lowest of each byte first: whether the token begins a document
    crc      CRC-32 as uint32, of the shard's name, the record's number as uint64, and the above

So whoever knows the number of tokens reads any of them with one request and without an index; and
a record that is damaged, or in the wrong place, is found. Zeros fill the last record.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.data.text.store import TokenStore
from llmjax.errors import UserError
from llmjax.storage.stores.block_cache import BlockCache
from llmjax.storage.stores.path import Location
from llmjax.storage.stores.ranges import ByteRange, RangeReader

BLOCK = 1 << 13
"""Tokens of a record; the format's."""
_CRC = 4
_AT_ONCE = 256  # records that are written at a time
_LARGEST_RANGE = 4 << 20  # bytes of neighbouring records in one request


def record_size(dtype: np.dtype) -> int:
    """Bytes of a record."""
    return BLOCK * dtype.itemsize + BLOCK // 8 + _CRC


class BlockFile(NamedTuple):
    """The tokens of a shard."""

    path: Location
    name: str
    """Of the shard, unique: part of each checksum, and its name in the cache."""


def _checksum(content: bytes | memoryview, name: bytes, number: int) -> bytes:
    seed = zlib.crc32(number.to_bytes(8, "little"), zlib.crc32(name))
    return zlib.crc32(content, seed).to_bytes(_CRC, "little")


def write_blocks(store: TokenStore, name: str, path: Path) -> None:
    """Writes the tokens of a store to a new file.

    Args:
      store: verified as it is read.
      name: of the shard.
      path: of the file.

    Raises:
      Damaged: the store is.
    """
    dtype = store.tokens.dtype
    with path.open("wb") as file:
        for start in range(0, store.num_tokens, BLOCK * _AT_ONCE):
            tokens = store.part(start, start + BLOCK * _AT_ONCE)
            rows = -(-len(tokens) // BLOCK)
            first = np.zeros(rows * BLOCK, bool)
            begin, end = np.searchsorted(store.offsets[:-1], (start, start + len(tokens)))
            first[store.offsets[begin:end] - start] = True
            padded = np.zeros(rows * BLOCK, dtype)
            padded[: len(tokens)] = tokens
            bits = np.packbits(first.reshape(rows, BLOCK), axis=1, bitorder="little")
            for row, (values, flags) in enumerate(
                zip(padded.reshape(rows, BLOCK), bits, strict=True)
            ):
                content = values.tobytes() + flags.tobytes()
                number = start // BLOCK + row
                file.write(content + _checksum(content, name.encode(), number))


@dataclass(frozen=True)
class Wanted:
    """A record of one of several files."""

    file: int
    number: int


class BlockReader:
    """Reads records of several files, through a cache. Thread-safe."""

    def __init__(
        self,
        files: Sequence[BlockFile],
        dtype: np.dtype,
        ranges: RangeReader,
        cache: BlockCache | None = None,
    ):
        """Args:
        files: of the shards.
        dtype: of the tokens.
        ranges: reads the files.
        cache: keeps records; None for local files.
        """
        self._files, self._dtype, self._ranges, self._cache = files, dtype, ranges, cache
        self._size = record_size(dtype)

    @property
    def bytes_per_record(self) -> int:
        """Memory of a record that was read, with its copy and its unpacked bits."""
        return 2 * self._size + BLOCK * (self._dtype.itemsize + 1)

    @property
    def is_remote(self) -> bool:
        """Whether the files are in a bucket."""
        return self._ranges.is_remote

    def read(self, wanted: Sequence[Wanted]) -> tuple[np.ndarray, np.ndarray]:
        """Reads records; those that the cache lacks at the same time, neighbours in one request.

        Args:
          wanted: ascending by file and number, without repetitions.

        Returns:
          The tokens [records, BLOCK], and whether each begins a document, bool [records, BLOCK].

        Raises:
          UserError: a file is missing, damaged, or cannot be read.
        """
        content: list[bytes | None] = [self._cached(each) for each in wanted]
        missing = [index for index, data in enumerate(content) if data is None]
        for index, record in zip(missing, self._fetch([wanted[i] for i in missing]), strict=True):
            content[index] = record
        packed = np.frombuffer(b"".join(data for data in content if data is not None), np.uint8)
        packed = packed.reshape(len(wanted), self._size)
        edge = BLOCK * self._dtype.itemsize
        tokens = packed[:, :edge].copy().view(self._dtype)
        first = np.unpackbits(packed[:, edge:-_CRC], axis=1, bitorder="little")
        return tokens, first.view(bool)

    def _cached(self, each: Wanted) -> bytes | None:
        if self._cache is None:
            return None
        file = self._files[each.file]
        data = self._cache.read(file.name, each.number * self._size, self._size)
        return data if self._is_whole(each, data) else None

    def _fetch(self, wanted: Sequence[Wanted]) -> list[bytes]:
        """Reads records from their files, and keeps them."""
        ranges = list(self._merged(wanted))
        records = [
            data[start : start + self._size]
            for data in self._ranges.read(ranges)
            for start in range(0, len(data), self._size)
        ]
        for index, (each, record) in enumerate(zip(wanted, records, strict=True)):
            if not self._is_whole(each, record):
                records[index] = self._again(each)
            if self._cache is not None:
                name, start = self._files[each.file].name, each.number * self._size
                self._cache.write(name, start, records[index])
        return records

    def _merged(self, wanted: Sequence[Wanted]) -> list[ByteRange]:
        most, ranges = _LARGEST_RANGE // self._size, []
        begin = 0
        for index, each in enumerate(wanted, 1):
            last = index == len(wanted)
            if not last and index - begin < most and wanted[index] == _next(each):
                continue
            path, start = self._files[each.file].path, wanted[begin].number * self._size
            ranges.append(ByteRange(path, start, (index - begin) * self._size))
            begin = index
        return ranges

    def _again(self, each: Wanted) -> bytes:
        """Reads a record that came damaged once more: the way here may have damaged it."""
        path, start = self._files[each.file].path, each.number * self._size
        (record,) = self._ranges.read([ByteRange(path, start, self._size)])
        if not self._is_whole(each, record):
            span = f"{start:,} to {start + self._size:,}"
            reason = f"fails its checksum in bytes {span}"
            raise UserError(path, reason, "remove it, and run llmjax data build again")
        return record

    def _is_whole(self, each: Wanted, record: bytes) -> bool:
        if len(record) != self._size:
            return False
        name = self._files[each.file].name.encode()
        return _checksum(memoryview(record)[:-_CRC], name, each.number) == record[-_CRC:]


def _next(each: Wanted) -> Wanted:
    return Wanted(each.file, each.number + 1)
