"""Where bytes come from and go to: a file, standard input and output, a folder of files.

A folder is stored as its files' bytes one after the other, and a list of (path, mode, time, size).
Nothing is seen of what is unpacked until all of it is there and found right.
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from llmjax.compress.archive import damaged
from llmjax.errors import UserError

STREAM = "-"
Member = list[Any]
"""[path with slashes, mode, nanoseconds since 1970, bytes]; bytes are -1 for a folder."""


@dataclass(frozen=True)
class Source:
    """Bytes to compress.

    Attributes:
      size: how many.
      members: of a folder; None for a file or standard input.
      file: what is open; None for a folder.
      root: the folder.
    """

    size: int
    members: list[Member] | None = None
    file: BinaryIO | None = None
    root: Path = field(default_factory=Path)

    def blocks(self, size: int) -> Iterator[bytes]:
        """All bytes, `size` at a time; UserError where there are more or fewer than there were."""
        block, read = bytearray(), 0
        for piece in self._pieces(size):
            read += len(piece)
            block += piece
            while len(block) >= size:
                yield bytes(block[:size])
                del block[:size]
        if read != self.size:
            raise UserError("the input", "changed while it was read", "try again")
        if block:
            yield bytes(block)

    def _pieces(self, size: int) -> Iterator[bytes]:
        if self.members is None:
            assert self.file is not None
            while piece := self.file.read(size):
                yield piece
            return
        for name, _, _, length in self.members:
            if length >= 0:
                with open(self.root / name, "rb") as file:
                    while piece := file.read(size):
                        yield piece


@contextlib.contextmanager
def spooled_input() -> Iterator[tuple[BinaryIO, int]]:
    """All of standard input as a seekable file, at its beginning, and its size in bytes."""
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        size = spool.tell()
        spool.seek(0)
        yield spool, size


@contextlib.contextmanager
def open_source(path: str) -> Iterator[Source]:
    """A file, a folder, or - for standard input (kept in a temporary file, so that it has a size).

    Raises:
      UserError: there is nothing to read, or a folder holds something else than files and folders.
    """
    try:
        if path == STREAM:
            with spooled_input() as (file, size):
                yield Source(size, file=file)
        elif Path(path).is_dir():
            members = _listed(Path(path))
            yield Source(sum(max(0, one[3]) for one in members), members, root=Path(path))
        else:
            with open(path, "rb") as file:
                yield Source(os.fstat(file.fileno()).st_size, file=file)
    except OSError as error:
        raise UserError(error.filename or path, f"{error.strerror or error}") from error


def _listed(root: Path) -> list[Member]:
    """What a folder holds, in the order of names."""
    found: list[Member] = []
    for path in sorted(root.rglob("*")):
        name, about = path.relative_to(root).as_posix(), path.lstat()
        regular = stat.S_ISREG(about.st_mode)
        if not regular and not stat.S_ISDIR(about.st_mode):
            raise UserError(path, "is a link or device", "only files and folders can be kept")
        size = about.st_size if regular else -1
        mode = stat.S_IMODE(about.st_mode) & 0o777
        found.append([name, mode, max(0, about.st_mtime_ns), size])
    return checked_members(found)


def check_target(target: str, overwrite: bool) -> None:
    """UserError where nothing can or may be written there."""
    if target == STREAM:
        return
    path = Path(target)
    if not path.parent.is_dir():
        raise UserError(path.parent, "no such folder")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(path, "exists", "choose another name, or remove it")


@contextlib.contextmanager
def new_file(target: str, overwrite: bool) -> Iterator[BinaryIO]:
    """A file to write and read; it gets its name when the block is left without an error."""
    check_target(target, overwrite)
    if target == STREAM:
        with tempfile.TemporaryFile() as spool:
            yield spool
            spool.seek(0)
            shutil.copyfileobj(spool, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    path = Path(target)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
    except OSError as error:
        raise UserError(path.parent, f"cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Folder:
    """Takes the bytes of a folder's files one after the other."""

    def __init__(self, root: Path, members: Sequence[Member]):
        self._root = root
        self._files = [member for member in members if member[3] >= 0]
        self._left, self._out = 0, None  # type: tuple[int, BinaryIO | None]
        for name, _, _, size in members:
            place = root / name
            (place if size < 0 else place.parent).mkdir(parents=True, exist_ok=True)
        self._next()

    def write(self, data: bytes) -> None:
        """Adds bytes; UserError where no file wants them."""
        while data:
            if self._out is None:
                raise damaged("it holds more bytes than its files")
            part, data = data[: self._left], data[self._left :]
            self._out.write(part)
            self._left -= len(part)
            if not self._left:
                self._next()

    def close(self) -> None:
        """Closes the last file; UserError where bytes are missing."""
        if self._out is not None:
            self._out.close()
            raise damaged("it holds fewer bytes than its files")

    def _next(self) -> None:
        """Opens the next file that is not empty."""
        if self._out is not None:
            self._out.close()
            self._out = None
        while self._files:
            name, _, _, self._left = self._files.pop(0)
            self._out = open(self._root / name, "xb")  # noqa: SIM115 (closed when it is full)
            if self._left:
                return
            self._out.close()
            self._out = None


@contextlib.contextmanager
def new_folder(target: str, members: Any) -> Iterator[Folder]:
    """A folder that takes its place when the block is left without an error.

    Raises:
      UserError: a path is absolute, climbs out or comes twice, or the target exists.
    """
    checked = checked_members(members)
    if target == STREAM:
        raise UserError("the archive", "holds a folder", "name one to unpack it to")
    check_target(target, overwrite=False)
    place = Path(tempfile.mkdtemp(dir=Path(target).parent, prefix=f".{Path(target).name[:80]}."))
    try:
        folder = Folder(place, checked)
        yield folder
        folder.close()
        for name, mode, time, _ in reversed(checked):  # what is inside before what holds it
            os.chmod(place / name, mode)
            os.utime(place / name, ns=(time, time))
        os.chmod(place, 0o777 & ~_umask())
        os.rename(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def checked_members(members: Any) -> list[Member]:
    """The members of an archive, all of which may be unpacked.

    Raises:
      UserError: one may not.
    """
    seen: dict[PurePosixPath, bool] = {}
    if not isinstance(members, list):
        raise damaged("its list of files is none")
    for member in members:
        match member:
            case [str(name), int(mode), int(time), int(size)]:
                path = PurePosixPath(name)
            case _:
                raise damaged("its list of files cannot be read")
        plain = path.as_posix() == name and name not in ("", ".") and not path.is_absolute()
        if not plain or ".." in path.parts or "\0" in name:
            raise UserError(f"the archive's file {name!r}", "would lie outside its folder")
        if not (0 <= mode <= 0o777 and 0 <= time < 2**63 and -1 <= size < 2**56):
            raise damaged(f"the mode, time or size of {name!r} is impossible")
        if path in seen or any(seen.get(parent) is False for parent in path.parents):
            raise UserError(f"the archive's file {name!r}", "comes twice, or inside a file")
        seen[path] = size < 0
    if any(seen.get(parent) is False for path in seen for parent in path.parents):
        raise UserError("the archive", "has a file inside a file")
    return members
