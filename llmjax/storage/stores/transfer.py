"""Copies of whole folders to and from a bucket.

A folder cannot be renamed in a bucket. So a marker, UNFINISHED, is its first object and is deleted
last: while it exists, the folder is refused. For programs that do not know the marker, config.json
is uploaded after everything else.
"""

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.stores.path import Location, ObjectInfo, StorePath
from llmjax.storage.writing import atomic_file, atomic_folder

UNFINISHED = "UNFINISHED_UPLOAD"
"""Name of the marker of a folder that is being uploaded, or whose upload was killed."""
TRANSFERS = 8
"""Objects that are copied at once."""
_LAST = "config.json"


def check_finished(folder: StorePath, files: Iterable[str]) -> None:
    """Raises a UserError if the names of a folder's objects include the marker."""
    if UNFINISHED in files:
        reason = "is incomplete: an upload is still running, or was killed"
        raise UserError(folder, reason, "wait for it, or remove the folder and upload it again")


def publish_folder(local: Path, target: StorePath) -> None:
    """Uploads the files of a local folder to a new folder.

    If it fails, what was uploaded is deleted; if it is killed, the marker stays.

    Raises:
      UserError: the target has objects already, or it cannot be written.
    """
    if target.is_file() or target.is_dir():
        raise UserError(target, "already exists", "choose another name, or remove it")
    owner = {"host": socket.gethostname(), "process": os.getpid()}
    marker = target / UNFINISHED
    marker.write_bytes(json.dumps(owner).encode(), overwrite=False)
    names = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
    try:
        upload_files(local, target, sorted(name for name in names if name != _LAST))
        upload_files(local, target, [name for name in names if name == _LAST])
    except BaseException:
        with contextlib.suppress(UserError):
            for name in target.files():
                (target / name).unlink()
        raise
    marker.unlink()


def upload_files(local: Path, target: StorePath, names: Iterable[str]) -> None:
    """Uploads files by their names relative to both folders; the names are sorted by the caller."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(lambda name: (target / name).upload(local / name), names))


def delete_files(folder: StorePath, names: Iterable[str]) -> None:
    """Deletes objects by their names relative to a folder."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(lambda name: (folder / name).unlink(), names))


def download_files(source: StorePath, local: Path, files: dict[str, ObjectInfo]) -> None:
    """Downloads objects into a local folder. Each gets its name when it is complete.

    Raises:
      UserError: an object's name leaves the folder, it is gone, its size is not the one listed, or
        the folder cannot be written.
    """

    def fetch(item: tuple[str, ObjectInfo]) -> None:
        name, info = item
        path, object_ = local / name, source / name
        if not _stays_inside(name):
            raise UserError(object_, "has a name that no file can have", "rename it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=".download.", dir=path.parent)
            os.close(handle)
            try:
                object_.download(Path(temporary))
                if os.stat(temporary).st_size != info.size:
                    raise UserError(object_, "changed while it was read", "run it again")
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror or error}") from error

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(fetch, files.items()))


def _stays_inside(name: str) -> bool:
    """Whether a name, split at slashes, is one of a file below a folder."""
    return "\0" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def _check_new(out: StorePath) -> None:
    if out.is_file() or out.is_dir():
        raise UserError(out, "already exists", "choose another name, or remove it")


@contextlib.contextmanager
def new_folder(out: Location) -> Iterator[Path]:
    """A new local folder that becomes `out` if the block succeeds: renamed, or uploaded.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    if isinstance(out, Path):
        with atomic_folder(out) as folder:
            yield folder
        return
    _check_new(out)
    with tempfile.TemporaryDirectory(prefix="llmjax-upload.") as parent:
        folder = Path(parent, out.name or "folder")
        folder.mkdir()
        yield folder
        publish_folder(folder, out)


@contextlib.contextmanager
def new_file(out: Location) -> Iterator[Path]:
    """A new, empty local file that becomes `out` if the block succeeds; as `new_folder`."""
    if isinstance(out, Path):
        with atomic_file(out) as file:
            yield file
        return
    _check_new(out)
    with tempfile.TemporaryDirectory(prefix="llmjax-upload.") as parent:
        file = Path(parent, out.name)
        file.touch()
        yield file
        out.upload(file, overwrite=False)
