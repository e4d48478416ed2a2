"""Parts of large files, kept on the local disk up to a limit."""

import contextlib
import logging
import os
import threading
from pathlib import Path

from llmjax.storage.bounded import size_text

log = logging.getLogger(__name__)

COUNTED_AGAIN = 256 << 20
"""Bytes that a process writes before it counts what others have written."""


class BlockCache:
    """Sparse local copies of files, shared by the processes of a machine. Thread-safe.

    What was never written reads as zeros, and two processes may write the same part at a time: so
    whoever reads must be able to tell a part that is whole. Nothing is evicted: readers at random
    find as much in any parts as in the newest ones. A full disk only stops the writing.
    """

    def __init__(self, folder: Path, limit: int):
        """Args:
        folder: for the copies; created when it is first written to.
        limit: bytes on disk of all copies in it; 0: keeps nothing.
        """
        self._folder, self._limit = folder, limit
        self._lock = threading.Lock()
        self._used = _disk_usage(folder) if limit else 0
        self._written = 0
        self._full = self._used >= limit

    def read(self, name: str, start: int, size: int) -> bytes:
        """The bytes of a copy, which may be unwritten or fewer than `size`."""
        if not self._limit:
            return b""
        try:
            file = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(file, size, start)
        except OSError:
            return b""
        finally:
            os.close(file)

    def write(self, name: str, start: int, data: bytes) -> None:
        """Keeps bytes of a file, unless the limit is reached."""
        if self._full:
            return
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.pwrite(file, data, start)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s: no more blocks are kept: %s", self._folder, error.strerror or error)
            self._full = True
            return
        self._count(len(data))

    def _count(self, size: int) -> None:
        with self._lock:
            self._used += size
            self._written += size
            if self._written >= COUNTED_AGAIN or self._used >= self._limit:
                self._used, self._written = _disk_usage(self._folder), 0
            if self._used >= self._limit and not self._full:
                self._full = True
                log.info("%s: full, with %s of blocks", self._folder, size_text(self._used))


def _disk_usage(folder: Path) -> int:
    """Bytes on disk of the files below a folder."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += os.stat(os.path.join(parent, name)).st_blocks * 512
    return used
