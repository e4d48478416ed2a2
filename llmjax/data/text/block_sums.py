"""Checksums of a large file by the block, so that it is verified where it is read.

Beside `tokens.bin` lies `tokens.crc`: the file's size as int64, then the CRC-32 of each block.
"""

import contextlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from llmjax.storage.cache_folders import Damaged

BLOCK = 1 << 16
"""Bytes of a block: few enough that a row of a batch costs little more than itself."""
SUFFIX = ".crc"
_SHARE = 64  # blocks that a thread verifies in one go


class SummedFile:
    """A file that is written once, from its beginning to its end, with its checksums."""

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
        """Makes sure that all of it, and then its checksums, are on the disk."""
        if self._size % BLOCK:
            self._sums.append(self._sum)
        _finish(self._file)
        file = self._path.with_suffix(SUFFIX).open("wb")
        file.write(np.array(self._size, "<i8").tobytes() + np.array(self._sums, "<u4").tobytes())
        _finish(file)


def _finish(file) -> None:  # type: ignore[no-untyped-def]
    file.flush()
    os.fsync(file.fileno())
    file.close()


class Blocks:
    """A mapped file, each block of which is verified before it is first used. Safe in threads."""

    def __init__(self, path: Path, data: np.ndarray):
        """Args:
          path: what SummedFile wrote.
          data: its content, any type of items whose size divides BLOCK.

        Raises:
          Damaged: the checksums are missing, or belong to a file of another size.
        """
        self._path = path
        self._items = BLOCK // data.itemsize  # in a block
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
        """Verifies the whole file, in several threads. Raises Damaged where it differs."""
        count = len(self._sums)
        shares = [range(first, min(first + _SHARE, count)) for first in range(0, count, _SHARE)]
        if len(shares) > 1:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._verify_share, shares))
        elif shares:
            self._verify_share(shares[0])
        self._all = True

    def verify(self, places: np.ndarray) -> None:
        """Verifies the blocks that hold the items at `places` where that was not done before.

        Raises:
          Damaged: one differs. The checksums are removed, so that the cache is not opened again.
        """
        if self._all:
            return
        touched = np.zeros(len(self._sums), bool)
        touched[np.ravel(places) // self._items] = True
        try:
            for block in np.flatnonzero(touched & ~self._verified).tolist():
                self._verify(block)
        except Damaged:
            with contextlib.suppress(OSError):
                self._path.with_suffix(SUFFIX).unlink()
            raise

    def _verify_share(self, blocks: range) -> None:
        for block in blocks:
            self._verify(block)

    def _verify(self, block: int) -> None:
        start = block * BLOCK
        data = self._bytes[start : start + BLOCK]
        if zlib.crc32(data) != self._sums[block]:  # type: ignore[arg-type]
            place = f"{start:,} to {start + len(data):,}"
            raise self._damaged(f"{self._path.name} fails its checksum in bytes {place}")
        self._verified[block] = True

    def _damaged(self, why: str) -> Damaged:
        return Damaged(self._path.parent, why)
