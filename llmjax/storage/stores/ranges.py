"""Many parts of files or objects, read at the same time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.stores.backend import CONNECTIONS, STORES
from llmjax.storage.stores.path import Location, StorePath


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
            with folder.errors():
                self._files = STORES[folder.scheme].filesystem()

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
        paths = [each.path for each in ranges]
        assert self._files is not None
        parts: list[bytes | Exception] = self._files.cat_ranges(
            [path.name_in_store for path in paths if isinstance(path, StorePath)],
            [each.start for each in ranges],
            [each.start + each.size for each in ranges],
            batch_size=CONNECTIONS,
            on_error="return",
        )
        data = []
        for path, part in zip(paths, parts, strict=True):
            if isinstance(part, BaseException):
                assert isinstance(path, StorePath)
                with path.errors():
                    raise part
            data.append(part)
        return data


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
