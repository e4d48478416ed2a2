"""Many parts of files or objects, read at the same time."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.stores.backend import CONNECTIONS, STORES
from llmjax.storage.stores.path import Location, StorePath

log = logging.getLogger(__name__)

WAITS = (1.0, 5.0, 20.0, 60.0)
"""Seconds after which failed requests are sent again, when the library has given up: a run of weeks
must not end with a minute of the network's."""


@dataclass(frozen=True)
class ByteRange:
    """Some bytes of a file or an object.

    Attributes:
      path: the file or the object.
      start: offset of the first byte.
      size: in bytes, positive.
    """

    path: Location
    start: int
    size: int


class RangeReader:
    """Reads ranges of the files of a folder; of objects, CONNECTIONS at the same time.

    Thread-safe: all threads share the connections.
    """

    def __init__(self, folder: Location):
        """Args:
          folder: holds the files.

        Raises:
          UserError: it is in a bucket, and the library for it is missing.
        """
        self._files = None
        if isinstance(folder, StorePath):
            self._store = STORES[folder.scheme]
            with folder.errors():
                self._files = self._store.filesystem()

    @property
    def is_remote(self) -> bool:
        """Whether the files are in a bucket."""
        return self._files is not None

    def read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """The bytes of each range.

        Raises:
          UserError: a file is missing, cannot be read, or ends before its range does.
        """
        parts = map(_read_local, ranges) if self._files is None else self._fetch(ranges)
        data = list(parts)
        for each, part in zip(ranges, data, strict=True):
            if len(part) != each.size:
                found = f"has {len(part)} bytes from byte {each.start:,} on, and not {each.size:,}"
                raise UserError(each.path, found, "restore it, or build it again")
        return data

    def _fetch(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        parts = self._request(ranges)
        for seconds in WAITS:
            failed = [index for index, part in enumerate(parts) if isinstance(part, Exception)]
            if not failed or any(self._is_final(parts[index]) for index in failed):
                break
            path, why = ranges[failed[0]].path, parts[failed[0]]
            log.warning("%s: %s; trying again in %g s", path, why, seconds)
            time.sleep(seconds)
            again = self._request([ranges[index] for index in failed])
            for index, part in zip(failed, again, strict=True):
                parts[index] = part
        return [_data(each, part) for each, part in zip(ranges, parts, strict=True)]

    def _request(self, ranges: Sequence[ByteRange]) -> list[bytes | Exception]:
        """The bytes of each range, or why there are none."""
        assert self._files is not None
        paths = [each.path for each in ranges]
        parts: list[bytes | Exception] = self._files.cat_ranges(
            [path.name_in_store for path in paths if isinstance(path, StorePath)],
            [each.start for each in ranges],
            [each.start + each.size for each in ranges],
            batch_size=CONNECTIONS,
            on_error="return",
        )
        return parts

    def _is_final(self, error: bytes | Exception) -> bool:
        """Whether the same request will fail again."""
        if isinstance(error, FileNotFoundError):
            return True
        assert isinstance(error, Exception)
        return self._store.is_unauthenticated(error) or self._store.is_forbidden(error)


def _data(each: ByteRange, part: bytes | Exception) -> bytes:
    if isinstance(part, bytes):
        return part
    assert isinstance(each.path, StorePath)
    with each.path.errors():
        raise part
    raise AssertionError  # the context never swallows an error


def _read_local(part: ByteRange) -> bytes:
    assert isinstance(part.path, Path)
    try:
        file = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, part.size, part.start)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(part.path, f"cannot be read: {error.strerror or error}") from error
