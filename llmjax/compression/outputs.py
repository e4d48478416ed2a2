"""What is written: a file, standard output, a folder of files.

An output gets its name only once all of it is written and verified.
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llmjax.compression.header import Member, check_members, damaged
from llmjax.compression.inputs import STREAM
from llmjax.errors import UserError, printable
from llmjax.storage.writing import umask


def check_output(target: str, overwrite: bool, source: str = STREAM) -> None:
    """UserError where nothing can or may be written there, or it is the input."""
    if target == STREAM:
        if sys.__stdout__ is None:  # closed when Python started
            raise UserError("standard output", "is closed", "name a file")
        return
    path = Path(target)
    if not target or not os.path.isdir(path.parent):
        raise UserError(printable(str(path.parent)) if target else "OUT", "no such folder")
    with _write_errors(target):
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except ValueError as error:
            raise UserError(printable(target), f"is not a valid name: {error}") from error
    if not overwrite or stat.S_ISDIR(kind):
        raise _exists(target)
    if not stat.S_ISREG(kind):
        raise UserError(printable(target), "is a link or device", "choose another name")
    if source != STREAM and _within(path, Path(source)):
        raise UserError(printable(target), "is the input", "choose another name")


@contextlib.contextmanager
def new_file(target: str, overwrite: bool, mode: int = 0o666) -> Iterator["OutputFile"]:
    """A file to write and read; it gets its name when the block ends without an error.

    Args:
      target: its name; - for standard output.
      overwrite: replace an existing file.
      mode: its permissions, before the umask.

    Raises:
      UserError: it cannot be written, or something else has taken its name by the end.
    """
    check_output(target, overwrite)
    if target == STREAM:
        with tempfile.TemporaryFile() as spool:
            yield OutputFile(spool, f"a temporary file in {tempfile.gettempdir()}")
            spool.seek(0)
            with _write_errors("standard output"):
                shutil.copyfileobj(spool, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        return
    path = Path(target)
    with _write_errors(target):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_temporary_prefix(path))
    try:
        file = os.fdopen(handle, "w+b")
        try:
            yield OutputFile(file, target)
            with _write_errors(target):
                file.flush()
                os.fsync(handle)
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which was reported before
                file.close()
        with _write_errors(target):
            os.chmod(name, mode & ~umask())
            if overwrite:
                check_output(target, overwrite)
                os.replace(name, path)
            else:
                _publish_file(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


class OutputFile:
    """A file being written, whose errors are UserErrors that name the target."""

    def __init__(self, file: BinaryIO, target: str):
        self.file, self._target = file, target

    def write(self, data: bytes) -> None:
        """Adds bytes; UserError where there is no room."""
        with _write_errors(self._target):
            self.file.write(data)

    def rewind(self) -> None:
        """Seeks to the beginning, so that the file can be read."""
        with _write_errors(self._target):
            self.file.seek(0)


class FolderWriter:
    """Distributes bytes to the files of a folder, one after the other."""

    def __init__(self, root: Path, members: Sequence[Member], target: str):
        self._root, self._target = root, target
        self._files = iter([member for member in members if member[3] >= 0])
        self._left, self._out = 0, None  # type: tuple[int, BinaryIO | None]
        for name, _, _, size in members:
            place = root / name
            (place if size < 0 else place.parent).mkdir(parents=True, exist_ok=True)
        self._next()

    def write(self, data: bytes) -> None:
        """Adds bytes; UserError where all files are full, or there is no room."""
        while data:
            if self._out is None:
                raise damaged("it holds more bytes than its files")
            part, data = data[: self._left], data[self._left :]
            with _write_errors(self._target):
                self._out.write(part)
                self._left -= len(part)
                if not self._left:
                    self._next()

    def close(self) -> None:
        """Closes the last file; UserError where bytes are missing."""
        if self._out is not None:
            self.drop()
            raise damaged("it holds fewer bytes than its files")

    def drop(self) -> None:
        """Closes the file that is being written, complete or not."""
        if self._out is not None:
            with contextlib.suppress(OSError):
                self._out.close()

    def _next(self) -> None:
        """Opens the next file that is not empty."""
        if self._out is not None:
            self._out.close()
            self._out = None
        for name, _, _, size in self._files:
            self._left = size
            self._out = open(self._root / name, "xb")  # noqa: SIM115 (closed when it is full)
            if self._left:
                return
            self._out.close()
            self._out = None


@contextlib.contextmanager
def new_folder(
    target: str, members: Any, mode: int = 0o777, time: int | None = None
) -> Iterator[FolderWriter]:
    """A folder that gets its name when the block ends without an error.

    Args:
      target: its name.
      members: what it will hold.
      mode: its own permissions, before the umask.
      time: its modification time, in nanoseconds since 1970; None: now.

    Raises:
      UserError: a path is absolute, leaves the folder or comes twice, the target exists, or it
        cannot be written.
    """
    checked = check_members(members)
    if target == STREAM:
        raise UserError("the archive", "holds a folder", "name a folder to unpack it to")
    check_output(target, overwrite=False)
    with _write_errors(target):
        place = Path(
            tempfile.mkdtemp(dir=Path(target).parent, prefix=_temporary_prefix(Path(target)))
        )
    try:
        with _write_errors(target):
            folder = FolderWriter(place, checked, target)
        try:
            yield folder
            folder.close()
        finally:
            folder.drop()
        with _write_errors(target):
            for name, permissions, modified, _ in reversed(checked):  # contents before their folder
                os.chmod(place / name, permissions)
                os.utime(place / name, ns=(modified, modified))
            os.chmod(place, mode & ~umask())
            if time is not None:
                os.utime(place, ns=(time, time))
            _publish_folder(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _publish_file(temporary: str, path: Path) -> None:
    """Gives a finished file its name, unless something else has taken it."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _exists(str(path)) from error
    except OSError as error:  # a file system without hard links
        if os.path.lexists(path):
            raise _exists(str(path)) from error
        os.replace(temporary, path)


def _publish_folder(place: Path, target: str) -> None:
    """Gives a finished folder its name by replacing an empty one that we make."""
    try:
        os.mkdir(target)
    except FileExistsError as error:
        raise _exists(target) from error
    try:
        os.replace(place, target)
    except OSError:
        os.rmdir(target)
        raise


def _within(path: Path, source: Path) -> bool:
    """Whether an existing file is the source, or lies within it."""
    try:
        return path.samefile(source) or path.resolve().is_relative_to(source.resolve())
    except OSError:  # there is no such source, which is reported elsewhere
        return False


def _exists(target: str) -> UserError:
    return UserError(printable(target), "exists", "choose another name, or remove it")


def _temporary_prefix(path: Path) -> str:
    return f".{path.name[:40]}."


@contextlib.contextmanager
def _write_errors(target: str) -> Iterator[None]:
    """Turns the system's errors of writing into UserErrors."""
    try:
        yield
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        reason = f"{error.encoding} cannot encode the name {printable(str(error.object))}"
        raise UserError(printable(target), f"cannot be written: {reason}") from error
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise UserError(printable(target), reason) from error
