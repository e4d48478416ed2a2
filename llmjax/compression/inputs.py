"""Inputs: a file, an object in a bucket, standard input or another pipe, or a folder of files.

A folder is read as the concatenation of its files. An object, and an input of unknown size, is
first copied to a temporary file.
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

from llmjax.compression.header import MAX_MEMBERS, Member, check_members
from llmjax.errors import UserError, printable
from llmjax.storage.stores.path import StorePath, location

STREAM = "-"


@dataclass(frozen=True)
class Input:
    """Bytes to compress.

    Attributes:
      size: number of bytes.
      members: members of a folder; None for a file or standard input.
      file: the open file; None for a folder.
      root: the folder.
      mode: permissions of the file or folder; None for a pipe.
      time: mtime of a folder, in nanoseconds since 1970; None otherwise.
    """

    size: int
    members: list[Member] | None = None
    file: BinaryIO | None = None
    root: Path = field(default_factory=Path)
    mode: int | None = None
    time: int | None = None

    @property
    def common_mode(self) -> int:
        """Permissions for a copy of the input: those that all of its files have in common."""
        if self.mode is None:
            return 0o666
        modes = [self.mode, *(member[1] for member in self.members or ())]
        common = 0o066
        for mode in modes:
            common &= mode
        return 0o600 | common

    def blocks(self, size: int) -> Iterator[bytes]:
        """Yields all bytes in blocks of `size`.

        Raises:
          UserError: a file cannot be read, or its size changed.
        """
        block = bytearray()
        for part in self._parts(size):
            block += part
            while len(block) >= size:
                yield bytes(block[:size])
                del block[:size]
        if block:
            yield bytes(block)

    def _parts(self, size: int) -> Iterator[bytes]:
        if self.members is None:
            assert self.file is not None
            self.file.seek(0)
            yield from _read_exactly(self.file, self.size, size, "the input")
            return
        for name, _, _, length in self.members:
            if length >= 0:
                path = self.root / name
                with _read_errors(path), open(path, "rb") as file:
                    yield from _read_exactly(file, length, size, path)


def _read_exactly(file: BinaryIO, length: int, size: int, name: str | Path) -> Iterator[bytes]:
    """Yields blocks of at most `size` bytes; raises UserError unless they add up to `length`."""
    remaining = length
    while True:
        with _read_errors(name):
            part = file.read(size)
        remaining -= len(part)
        if remaining < 0 or (remaining and not part):
            raise UserError(printable(str(name)), "changed while it was read", "try again")
        if not part:
            return
        yield part


@contextlib.contextmanager
def open_input(path: str) -> Iterator[Input]:
    """Opens a file, a folder, an object in a bucket, or standard input (-).

    Raises:
      UserError: it cannot be read, or a folder contains anything but files and folders.
    """
    if path != STREAM and os.path.isdir(path):
        root = Path(path)
        with _read_errors(path):
            members, status = list_folder(root), root.stat()
        size = sum(max(0, member[3]) for member in members)
        mode = stat.S_IMODE(status.st_mode) & 0o777
        yield Input(size, members, root=root, mode=mode, time=status.st_mtime_ns)
        return
    with open_seekable(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        yield Input(size, file=file, mode=_mode(path))


def list_folder(root: Path) -> list[Member]:
    """Lists the members of a folder, sorted by path.

    Raises:
      UserError: a member cannot be read, or is neither file nor folder; or there are more than
        `MAX_MEMBERS`.
    """
    paths: list[Path] = []
    for folder, folders, files in os.walk(root, onerror=_refuse):
        paths += [Path(folder, name) for name in (*folders, *files)]
        if len(paths) > MAX_MEMBERS:
            reason = f"has more than {MAX_MEMBERS:,} files and folders"
            raise UserError(
                printable(str(root)), reason, "compress parts of it, or a tar file of it"
            )
    members: list[Member] = []
    for path in sorted(paths):
        name, status = path.relative_to(root).as_posix(), path.lstat()
        regular = stat.S_ISREG(status.st_mode)
        if not regular and not stat.S_ISDIR(status.st_mode):
            fix = "only files and folders can be archived"
            raise UserError(printable(str(path)), "is a link or device", fix)
        size = status.st_size if regular else -1
        members.append([name, stat.S_IMODE(status.st_mode) & 0o777, status.st_mtime_ns, size])
    return check_members(members)


def _refuse(error: OSError) -> None:
    raise UserError(printable(str(error.filename)), f"cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def open_seekable(path: str) -> Iterator[BinaryIO]:
    """Opens a file, an object, a pipe or standard input (-) as a seekable file, at its start.

    Raises:
      UserError: it cannot be read.
    """
    if not path:
        raise UserError("IN", "is empty", "name a file, or - for standard input")
    if path == STREAM:
        if sys.stdin is None:
            raise UserError("standard input", "is closed", "connect it, or name a file")
        with _temporary_copy(sys.stdin.buffer, "standard input") as copy:
            yield copy
        return
    if isinstance(source := location(path), StorePath):
        with _temporary_object(source) as copy:
            yield copy
        return
    with contextlib.ExitStack() as stack:
        with _read_errors(path):
            file: BinaryIO = stack.enter_context(open(path, "rb"))
            status = os.fstat(file.fileno())
        # Files in /proc are regular, but report a size of 0.
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            file = stack.enter_context(_temporary_copy(file, path))
        yield file


@contextlib.contextmanager
def _temporary_object(source: StorePath) -> Iterator[BinaryIO]:
    """Copies an object to a temporary file."""
    if not source.is_file():
        if source.is_dir():
            fix = "name an object, or copy the folder here first"
            raise UserError(source, "is a folder in a bucket", fix)
        raise UserError(source, "does not exist", "check the path")
    with tempfile.NamedTemporaryFile() as copy:
        source.download(Path(copy.name))
        with open(copy.name, "rb") as file:
            yield file


def _mode(path: str) -> int | None:
    """Permissions of a regular file; None for anything else."""
    if path == STREAM or isinstance(location(path), StorePath):
        return None
    mode = os.stat(path).st_mode
    return mode & 0o777 if stat.S_ISREG(mode) else None


@contextlib.contextmanager
def _temporary_copy(file: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Copies the rest of a file to a temporary file."""
    with tempfile.TemporaryFile() as copy:
        try:
            shutil.copyfileobj(file, copy)
            copy.seek(0)
        except OSError as error:
            reason = f"cannot be copied to {tempfile.gettempdir()}: {error.strerror or error}"
            raise UserError(printable(name), reason) from error
        yield copy


@contextlib.contextmanager
def _read_errors(name: str | Path) -> Iterator[None]:
    """Converts system errors while reading to UserErrors."""
    try:
        yield
    except (OSError, ValueError) as error:
        path = getattr(error, "filename", None) or name
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(printable(str(path)), reason) from error
