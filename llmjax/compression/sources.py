"""Where bytes come from: a file, standard input or another pipe, a folder of files.

A folder's bytes are those of its files one after the other. What says no size beforehand is kept in
a temporary file first.
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from llmjax.compression.members import Member, listed
from llmjax.compression.visible import visible
from llmjax.errors import UserError

STREAM = "-"


@dataclass(frozen=True)
class Source:
    """Bytes to compress.

    Attributes:
      size: how many.
      members: of a folder; None for a file or standard input.
      file: what is open; None for a folder.
      root: the folder.
      mode: permissions of the file or folder; None of a pipe.
      time: of a folder's last change, in nanoseconds since 1970; None of anything else.
    """

    size: int
    members: list[Member] | None = None
    file: BinaryIO | None = None
    root: Path = field(default_factory=Path)
    mode: int | None = None
    time: int | None = None

    @property
    def readers(self) -> int:
        """Permissions of a file that holds all of this: for nobody whom a part is kept from."""
        if self.mode is None:
            return 0o666
        modes = [self.mode, *(member[1] for member in self.members or ())]
        common = 0o066
        for mode in modes:
            common &= mode
        return 0o600 | common

    def blocks(self, size: int) -> Iterator[bytes]:
        """All bytes, `size` at a time.

        Raises:
          UserError: a file cannot be read, or has more or fewer bytes than it had.
        """
        block = bytearray()
        for piece in self._pieces(size):
            block += piece
            while len(block) >= size:
                yield bytes(block[:size])
                del block[:size]
        if block:
            yield bytes(block)

    def _pieces(self, size: int) -> Iterator[bytes]:
        if self.members is None:
            assert self.file is not None
            self.file.seek(0)
            yield from _exactly(self.file, self.size, size, "the input")
            return
        for name, _, _, length in self.members:
            if length >= 0:
                path = self.root / name
                with _reading(path), open(path, "rb") as file:
                    yield from _exactly(file, length, size, path)


def _exactly(file: BinaryIO, length: int, size: int, name: str | Path) -> Iterator[bytes]:
    """A file's bytes, at most `size` at a time; UserError as soon as they are not `length`."""
    left = length
    while True:
        with _reading(name):
            piece = file.read(size)
        left -= len(piece)
        if left < 0 or (left and not piece):
            raise UserError(visible(str(name)), "changed while it was read", "try again")
        if not piece:
            return
        yield piece


@contextlib.contextmanager
def open_source(path: str) -> Iterator[Source]:
    """A file, a folder, or - for standard input.

    Raises:
      UserError: there is nothing to read, or a folder holds something else than files and folders.
    """
    if path != STREAM and os.path.isdir(path):
        root = Path(path)
        with _reading(path):
            members, about = listed(root), root.stat()
        size = sum(max(0, member[3]) for member in members)
        yield Source(size, members, root=root, mode=about.st_mode & 0o777, time=about.st_mtime_ns)
        return
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield Source(size, file=file, mode=None if path == STREAM else _mode(path))


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A file, or what a pipe or - for standard input gives, seekable and at its beginning.

    Raises:
      UserError: it cannot be read.
    """
    if not path:
        raise UserError("IN", "is empty", "name a file, or - for standard input")
    if path == STREAM:
        if sys.stdin is None:
            raise UserError("standard input", "is closed", "connect it, or name a file")
        with _spooled(sys.stdin.buffer, "standard input") as spool:
            yield spool
        return
    with contextlib.ExitStack() as stack:
        with _reading(path):
            file: BinaryIO = stack.enter_context(open(path, "rb"))
            about = os.fstat(file.fileno())
        # Files of /proc are regular ones of no bytes, until they are read.
        if not stat.S_ISREG(about.st_mode) or not about.st_size:
            file = stack.enter_context(_spooled(file, path))
        yield file


def _mode(path: str) -> int | None:
    about = os.stat(path).st_mode
    return about & 0o777 if stat.S_ISREG(about) else None


@contextlib.contextmanager
def _spooled(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """All that is left of a file, in a temporary one."""
    with tempfile.TemporaryFile() as spool:
        try:
            shutil.copyfileobj(file, spool)
            spool.seek(0)
        except OSError as error:
            reason = f"cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}"
            raise UserError(visible(name), reason) from error
        yield spool


@contextlib.contextmanager
def _reading(name: str | Path) -> Iterator[None]:
    """Makes a mistake of what the system says of reading."""
    try:
        yield
    except (OSError, ValueError) as error:
        thing = getattr(error, "filename", None) or name
        raise UserError(
            visible(str(thing)), getattr(error, "strerror", None) or str(error)
        ) from error
