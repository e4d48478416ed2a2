"""Outputs: a file, an object in a bucket, standard output, or a folder of files.

An output gets its name only after it has been written completely and verified.
"""

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmjax.compression.header import Member, check_members, damaged
from llmjax.compression.inputs import STREAM
from llmjax.errors import UserError, printable
from llmjax.storage.stores.path import StorePath, location
from llmjax.storage.writing import umask


def check_output(target: str, overwrite: bool, source: str = STREAM) -> None:
    """Raises UserError if the target cannot or must not be written, or is the input."""
    if target == STREAM:
        if sys.__stdout__ is None:  # closed when Python started
            raise UserError("standard output", "is closed", "name a file")
        return
    if target and isinstance(place := location(target), StorePath):
        _check_object(place, overwrite, source)
        return
    path = Path(target)
    if not target or not os.path.isdir(path.parent):
        raise UserError(printable(str(path.parent)) if target else "OUT", "no such folder")
    with _write_errors(target):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except ValueError as error:
            raise UserError(printable(target), f"is not a valid name: {error}") from error
    if not overwrite or stat.S_ISDIR(mode):
        raise _exists(target)
    if not stat.S_ISREG(mode):
        raise UserError(printable(target), "is a link or device", "choose another name")
    if source != STREAM and _within(path, Path(source)):
        raise UserError(printable(target), "is the input", "choose another name")


def _check_object(target: StorePath, overwrite: bool, source: str) -> None:
    if source != STREAM and location(source) == target:
        raise UserError(target, "is the input", "choose another name")
    if target.is_dir() or (target.is_file() and not overwrite):
        raise _exists(str(target))


@contextlib.contextmanager
def new_file(target: str, overwrite: bool, mode: int = 0o666) -> Iterator["OutputFile"]:
    """Creates a file to write and read, which gets its name if the block ends without an error.

    Args:
      target: its name, or that of an object in a bucket; - for standard output.
      overwrite: replace an existing file.
      mode: its permissions, before the umask.

    Raises:
      UserError: it cannot be written, or its name was taken in the meantime.
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
    if isinstance(place := location(target), StorePath):
        with tempfile.NamedTemporaryFile("w+b") as spool:
            yield OutputFile(cast(BinaryIO, spool), f"a temporary file in {tempfile.gettempdir()}")
            spool.flush()
            place.upload(spool.name, overwrite=overwrite)
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
            with contextlib.suppress(OSError):  # a full disk has already been reported
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
    """An output file that raises UserErrors that name the target."""

    def __init__(self, file: BinaryIO, target: str):
        self.file, self._target = file, target

    def write(self, data: bytes) -> None:
        """Appends bytes; raises UserError if the disk is full."""
        with _write_errors(self._target):
            self.file.write(data)

    def rewind(self) -> None:
        """Seeks to the start, to read the file."""
        with _write_errors(self._target):
            self.file.seek(0)


class FolderWriter:
    """Distributes bytes over the files of a folder, in order."""

    def __init__(self, root: Path, members: Sequence[Member], target: str):
        self._root, self._target = root, target
        self._files = iter([member for member in members if member[3] >= 0])
        self._remaining, self._out = 0, None  # type: tuple[int, BinaryIO | None]
        for name, _, _, size in members:
            path = root / name
            (path if size < 0 else path.parent).mkdir(parents=True, exist_ok=True)
        self._next()

    def write(self, data: bytes) -> None:
        """Appends bytes; raises UserError if all files are complete, or the disk is full."""
        while data:
            if self._out is None:
                raise damaged("it holds more bytes than its files")
            part, data = data[: self._remaining], data[self._remaining :]
            with _write_errors(self._target):
                self._out.write(part)
                self._remaining -= len(part)
                if not self._remaining:
                    self._next()

    def close(self) -> None:
        """Closes the last file; raises UserError if bytes are missing."""
        if self._out is not None:
            self.drop()
            raise damaged("it holds fewer bytes than its files")

    def drop(self) -> None:
        """Closes the current file, complete or not."""
        if self._out is not None:
            with contextlib.suppress(OSError):
                self._out.close()

    def _next(self) -> None:
        """Opens the next file that is not empty."""
        if self._out is not None:
            self._out.close()
            self._out = None
        for name, _, _, size in self._files:
            self._remaining = size
            self._out = open(self._root / name, "xb")  # noqa: SIM115 (closed when complete)
            if self._remaining:
                return
            self._out.close()
            self._out = None


@contextlib.contextmanager
def new_folder(
    target: str, members: Any, mode: int = 0o777, time: int | None = None
) -> Iterator[FolderWriter]:
    """Creates a folder, which gets its name if the block ends without an error.

    Args:
      target: its name.
      members: its files and folders.
      mode: its permissions, before the umask.
      time: its mtime, in nanoseconds since 1970; None: now.

    Raises:
      UserError: a path is absolute, leaves the folder or is listed twice, the target exists, or it
        cannot be written.
    """
    checked = check_members(members)
    if target == STREAM or isinstance(location(target), StorePath):
        raise UserError("the archive", "holds a folder", "name a local folder to unpack it to")
    check_output(target, overwrite=False)
    with _write_errors(target):
        temporary = Path(
            tempfile.mkdtemp(dir=Path(target).parent, prefix=_temporary_prefix(Path(target)))
        )
    try:
        with _write_errors(target):
            folder = FolderWriter(temporary, checked, target)
        try:
            yield folder
            folder.close()
        finally:
            folder.drop()
        with _write_errors(target):
            for name, permissions, modified, _ in reversed(checked):  # contents before their folder
                os.chmod(temporary / name, permissions)
                os.utime(temporary / name, ns=(modified, modified))
            os.chmod(temporary, mode & ~umask())
            if time is not None:
                os.utime(temporary, ns=(time, time))
            _publish_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish_file(temporary: str, path: Path) -> None:
    """Gives a complete file its name, unless that has been taken."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _exists(str(path)) from error
    except OSError as error:  # a file system without hard links
        if os.path.lexists(path):
            raise _exists(str(path)) from error
        os.replace(temporary, path)


def _publish_folder(temporary: Path, target: str) -> None:
    """Gives a complete folder its name, by replacing an empty folder created here."""
    try:
        os.mkdir(target)
    except FileExistsError as error:
        raise _exists(target) from error
    try:
        os.replace(temporary, target)
    except OSError:
        os.rmdir(target)
        raise


def _within(path: Path, source: Path) -> bool:
    """Whether an existing file is the source, or lies inside it."""
    try:
        return path.samefile(source) or path.resolve().is_relative_to(source.resolve())
    except OSError:  # no such source, which is reported elsewhere
        return False


def _exists(target: str) -> UserError:
    return UserError(printable(target), "exists", "choose another name, or remove it")


def _temporary_prefix(path: Path) -> str:
    return f".{path.name[:40]}."


@contextlib.contextmanager
def _write_errors(target: str) -> Iterator[None]:
    """Converts system errors while writing to UserErrors."""
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
