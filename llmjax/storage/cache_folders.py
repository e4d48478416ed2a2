"""Cached folders and files, which appear under their final name only when complete."""

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
    """A cached folder is damaged.

    Args:
      folder: the folder.
      why: short description of the damage.
    """

    def __init__(self, folder: Path, why: str):
        fix = "start the same command again, or remove the folder"
        super().__init__(folder, f"the cache is damaged: {why}", fix)


@contextlib.contextmanager
def unwritable_is_user_error(path: Path) -> Iterator[None]:
    """Turn an OSError (disk full, permission denied) into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            path, f"cannot be written: {error.strerror or error}", "free space or choose another"
        ) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its parent folders.

    Raises:
      UserError: the path cannot be written.
    """
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)


def make_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Create the folder `path`: `fill` writes a temporary folder beside it, which is then renamed.

    If several processes create the same folder, the first to finish wins and the others discard
    their work. After an exception or a kill, `path` does not exist.

    Raises:
      UserError: the path cannot be written.
    """
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = _temporary_affixes(path)
        temporary = Path(tempfile.mkdtemp(suffix, prefix, path.parent))
        try:
            fill(temporary)
            temporary.chmod(new_folder_mode())  # mkdtemp creates private folders
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():  # else another process was first
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Create `folder` if it is missing; one process builds it while the others wait."""
    if folder.is_dir():
        return
    with folder_lock(folder) as locked:
        if not folder.is_dir():
            if locked:
                _remove_leftovers(folder)
            make_folder(folder, build)


def open_or_build(folder: Path, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """Return `read(folder)`, building the folder first if it is missing.

    If `read` raises Damaged, the folder is rebuilt with a warning.

    Raises:
      Damaged: the folder is still damaged after the rebuild.
      UserError: as make_folder, and what `build` and `read` raise.
    """
    build_once(folder, build)
    identity = _identity(folder)
    try:
        return read(folder)
    except Damaged as error:
        log.warning("%s: %s; rebuilding it", folder, error.reason)
        _discard(folder, identity)
    build_once(folder, build)
    return read(folder)


def _identity(folder: Path) -> tuple[int, int] | None:
    """Inode and change time, which tell a folder from a replacement of the same name."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _discard(folder: Path, identity: tuple[int, int] | None) -> None:
    """Remove a damaged folder, unless another process has replaced it since."""
    prefix, suffix = _temporary_affixes(folder)
    with folder_lock(folder), unwritable_is_user_error(folder):
        if identity is not None and _identity(folder) == identity:
            doomed = Path(tempfile.mkdtemp(suffix, prefix, folder.parent))
            folder.rename(doomed / folder.name)
            shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock for building `folder`; the kernel releases it if the process dies.

    The lock only saves work: `make_folder` is safe without it. If the file system does not support
    locks, yields False at once.
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
    """Remove temporary folders of killed processes; call only while holding the lock."""
    prefix, suffix = _temporary_affixes(path)
    for leftover in path.parent.glob(f"{prefix}*{suffix}"):
        shutil.rmtree(leftover, ignore_errors=True)


def _temporary_affixes(path: Path) -> tuple[str, str]:
    """Prefix and suffix of the names of temporary folders for `path`."""
    return f".{path.name}.", ".tmp"
