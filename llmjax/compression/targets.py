"""Where bytes go to: a file, standard output, a folder of files.

Nothing is seen of what is written until all of it is there and found right.
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

from llmjax.compression.damage import damaged
from llmjax.compression.members import Member, checked_members
from llmjax.compression.sources import STREAM
from llmjax.compression.visible import visible
from llmjax.errors import UserError
from llmjax.storage.writing import umask


def check_target(target: str, overwrite: bool, source: str = STREAM) -> None:
    """UserError where nothing can or may be written there, or it is what is read."""
    if target == STREAM:
        if sys.__stdout__ is None:  # Python found it closed
            raise UserError("standard output", "is closed", "name a file")
        return
    path = Path(target)
    if not target or not os.path.isdir(path.parent):
        raise UserError(visible(str(path.parent)) if target else "OUT", "no such folder")
    with _writing(target):
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        except ValueError as error:
            raise UserError(visible(target), f"is no name: {error}") from error
    if not overwrite or stat.S_ISDIR(kind):
        raise _taken(target)
    if not stat.S_ISREG(kind):
        raise UserError(visible(target), "is a link or device", "choose another name")
    if source != STREAM and _within(path, Path(source)):
        raise UserError(visible(target), "is what is to be read", "choose another name")


@contextlib.contextmanager
def new_file(target: str, overwrite: bool, mode: int = 0o666) -> Iterator["Output"]:
    """A file to write and read; it gets its name when the block is left without an error.

    Args:
      target: its name; - for standard output.
      overwrite: replace an existing file.
      mode: its permissions, less what the umask takes away.

    Raises:
      UserError: it cannot be written, or something else has got its name by the end.
    """
    check_target(target, overwrite)
    if target == STREAM:
        with tempfile.TemporaryFile() as spool:
            yield Output(spool, f"a temporary file in {tempfile.gettempdir()}")
            spool.seek(0)
            with _writing("standard output"):
                shutil.copyfileobj(spool, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        return
    path = Path(target)
    with _writing(target):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
    try:
        file = os.fdopen(handle, "w+b")
        try:
            yield Output(file, target)
            with _writing(target):
                file.flush()
                os.fsync(handle)
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which was told of before
                file.close()
        with _writing(target):
            os.chmod(name, mode & ~umask())
            if overwrite:
                check_target(target, overwrite)
                os.replace(name, path)
            else:
                _named(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


class Output:
    """A file being written; what goes wrong is told as a mistake that names the target."""

    def __init__(self, file: BinaryIO, target: str):
        self.file, self._target = file, target

    def write(self, data: bytes) -> None:
        """Adds bytes; UserError where there is no room."""
        with _writing(self._target):
            self.file.write(data)

    def rewind(self) -> None:
        """Goes to the beginning, so that the file can be read."""
        with _writing(self._target):
            self.file.seek(0)


class Folder:
    """Takes the bytes of a folder's files one after the other."""

    def __init__(self, root: Path, members: Sequence[Member], target: str):
        self._root, self._target = root, target
        self._files = iter([member for member in members if member[3] >= 0])
        self._left, self._out = 0, None  # type: tuple[int, BinaryIO | None]
        for name, _, _, size in members:
            place = root / name
            (place if size < 0 else place.parent).mkdir(parents=True, exist_ok=True)
        self._next()

    def write(self, data: bytes) -> None:
        """Adds bytes; UserError where no file wants them, or there is no room."""
        while data:
            if self._out is None:
                raise damaged("it holds more bytes than its files")
            part, data = data[: self._left], data[self._left :]
            with _writing(self._target):
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
        """Closes the file that is being written, whatever comes of it."""
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
) -> Iterator[Folder]:
    """A folder that takes its place when the block is left without an error.

    Args:
      target: its name.
      members: what it will hold.
      mode: its own permissions, less what the umask takes away.
      time: of its last change, in nanoseconds since 1970; None: now.

    Raises:
      UserError: a path is absolute, climbs out or comes twice, the target exists, or it cannot be
        written.
    """
    checked = checked_members(members)
    if target == STREAM:
        raise UserError("the archive", "holds a folder", "name one to unpack it to")
    check_target(target, overwrite=False)
    with _writing(target):
        place = Path(tempfile.mkdtemp(dir=Path(target).parent, prefix=_prefix(Path(target))))
    try:
        with _writing(target):
            folder = Folder(place, checked, target)
        try:
            yield folder
            folder.close()
        finally:
            folder.drop()
        with _writing(target):
            for name, own, changed, _ in reversed(checked):  # what is inside before what holds it
                os.chmod(place / name, own)
                os.utime(place / name, ns=(changed, changed))
            os.chmod(place, mode & ~umask())
            if time is not None:
                os.utime(place, ns=(time, time))
            _moved(place, target)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _named(temporary: str, path: Path) -> None:
    """Gives a finished file its name, unless something else has it by now."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _taken(str(path)) from error
    except OSError as error:  # a file system without hard links
        if os.path.lexists(path):
            raise _taken(str(path)) from error
        os.replace(temporary, path)


def _moved(place: Path, target: str) -> None:
    """Gives a finished folder its name: it takes the place of an empty one that is ours."""
    try:
        os.mkdir(target)
    except FileExistsError as error:
        raise _taken(target) from error
    try:
        os.replace(place, target)
    except OSError:
        os.rmdir(target)
        raise


def _within(path: Path, source: Path) -> bool:
    """Whether an existing file is the source, or one of its files."""
    try:
        return path.samefile(source) or path.resolve().is_relative_to(source.resolve())
    except OSError:  # there is no such source, which is said elsewhere
        return False


def _taken(target: str) -> UserError:
    return UserError(visible(target), "exists", "choose another name, or remove it")


def _prefix(path: Path) -> str:
    return f".{path.name[:40]}."


@contextlib.contextmanager
def _writing(target: str) -> Iterator[None]:
    """Makes a mistake of what the system says of writing."""
    try:
        yield
    except BrokenPipeError:
        raise
    except UnicodeEncodeError as error:
        reason = f"this system's {error.encoding} has no name such as {visible(str(error.object))}"
        raise UserError(visible(target), f"cannot be written: {reason}") from error
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise UserError(visible(target), reason) from error
