"""Cached folders and files: they appear under their name only when complete."""

import contextlib
import fcntl
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from llmjax.errors import UserError
from llmjax.storage.writing import new_folder_mode, write_atomically

log = logging.getLogger(__name__)
T = TypeVar("T")


class Damaged(UserError):
    """A folder of a cache is not as it was written.

    Args:
      folder: which.
      why: in a few words.
    """

    def __init__(self, folder: Path, why: str):
        fix = "start the same command again, or remove the folder"
        super().__init__(folder, f"the cache is damaged: {why}", fix)


@contextlib.contextmanager
def unwritable_is_user_error(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder without permission into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            path, f"cannot be written: {error.strerror or error}", "free space or choose another"
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Writes a file, and the folders above it; readers see the old content or the new.

    Raises:
      UserError: the place cannot be written.
    """
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Makes the folder `path` from what `fill` writes into a temporary folder beside it.

    Where several processes make the same folder, the first to finish wins and the others' work is
    discarded. An exception, or a kill, leaves nothing under the name `path`.

    Raises:
      UserError: the place cannot be written.
    """
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = _marks(path)
        temporary = Path(tempfile.mkdtemp(suffix, prefix, path.parent))
        try:
            fill(temporary)
            temporary.chmod(new_folder_mode())  # mkdtemp's folder is private
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():  # not the race above
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Makes `folder` where it is missing; of several processes one works, the others wait."""
    if folder.is_dir():
        return
    with one_at_a_time(folder) as locked:
        if not folder.is_dir():
            if locked:
                _remove_leftovers(folder)
            make_folder(folder, build)


def open_or_build(folder: Path, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of `folder`, which is built where it is missing, and rebuilt with a warning
    where `read` finds it damaged.

    Raises:
      Damaged: it is also damaged right after it was built.
      UserError: as make_folder, and what `build` and `read` raise.
    """
    build_once(folder, build)
    identity = _identity(folder)
    try:
        return read(folder)
    except Damaged as error:
        log.warning("%s: %s; it is rebuilt", folder, error.reason)
        _discard(folder, identity)
    build_once(folder, build)
    return read(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Differs from that of a folder of this name before or after it."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _discard(folder: Path, identity: tuple[int, int] | None) -> None:
    """Removes a damaged folder, unless another process has replaced it since."""
    prefix, suffix = _marks(folder)
    with one_at_a_time(folder), unwritable_is_user_error(folder):
        if identity is not None and _identity(folder) == identity:
            doomed = Path(tempfile.mkdtemp(suffix, prefix, folder.parent))
            folder.rename(doomed / folder.name)
            shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[bool]:
    """A lock for making `folder`, freed by the system when its holder dies.

    Saves work only: `make_folder` is safe without it. Where the file system cannot lock, yields
    False at once.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            locked = True
        except OSError:
            locked = False
        yield locked


def _remove_leftovers(path: Path) -> None:
    """Removes what killed makers of `path` left; for where no other can be at work."""
    prefix, suffix = _marks(path)
    for leftover in path.parent.glob(f"{prefix}*{suffix}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _marks(path: Path) -> tuple[str, str]:
    """How the names of temporary folders for `path` begin and end."""
    return f".{path.name}.", ".tmp"
