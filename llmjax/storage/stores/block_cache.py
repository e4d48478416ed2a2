"""Parts of large files, kept on the local disk up to a limit."""

import contextlib
import fcntl
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import IO

from llmjax.storage.bounded import size_text

log = logging.getLogger(__name__)

COUNTED_AGAIN = 256 << 20
"""Bytes that a process writes before it counts what others have written."""


class BlockCache:
    """Sparse local copies of a store's files, shared by the processes of a machine. Thread-safe.

    What was never written reads as zeros, and two processes may write the same part at a time: so
    whoever reads must be able to tell a part that is whole. When the limit is reached, copies of
    other stores are removed, if no process uses them; those of this one stay: readers at random
    find as much in any parts as in the newest ones. A full disk only stops the writing.
    """

    def __init__(self, folder: Path, key: str, limit: int):
        """Args:
        folder: for the copies of all stores.
        key: names the store; so begin the names of its files.
        limit: bytes on disk of all copies in the folder; 0: keeps nothing.
        """
        self._folder, self._key, self._limit = folder, key, limit
        self._lock = threading.Lock()
        self._used = self._written = 0
        self._full = not limit
        if limit:
            self._in_use = _lock(folder, key, fcntl.LOCK_SH)  # as long as this object lives
            self._count(0)

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
            if not size or self._written >= COUNTED_AGAIN or self._used >= self._limit:
                self._used, self._written = _disk_usage(self._folder), 0
            if self._used >= self._limit and not self._full:
                self._remove_unused()
                self._used = _disk_usage(self._folder)
                self._full = self._used >= self._limit
            if self._full:
                log.info("%s: full, with %s of blocks", self._folder, size_text(self._used))

    def _remove_unused(self) -> None:
        """Removes the copies of stores that no process of this machine uses."""
        for path in self._folder.iterdir():
            if path.is_dir() and path.name != self._key:
                with _lock(self._folder, path.name, fcntl.LOCK_EX) as locked:
                    if locked is not None:
                        shutil.rmtree(path, ignore_errors=True)


def _lock(folder: Path, key: str, kind: int) -> IO[bytes] | contextlib.nullcontext[None]:
    """Locks the copies of a store until the file is closed, or its process ends; without a file if
    that is not possible now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f".{key}.lock").open("wb")
    except OSError:
        return contextlib.nullcontext()
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return contextlib.nullcontext()
    return file


def _disk_usage(folder: Path) -> int:
    """Bytes on disk of the files below a folder."""
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += os.stat(os.path.join(parent, name)).st_blocks * 512
    return used
