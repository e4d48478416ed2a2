"""Atomic writes: readers see the old content or the complete new one, never a part."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llmjax.errors import UserError


def new_file_mode() -> int:
    """Permissions of a new file under the process's umask: 0o644 for the usual 0o022."""
    return 0o666 & ~umask()


def new_folder_mode() -> int:
    """Permissions of a new folder under the process's umask."""
    return 0o777 & ~umask()


def umask() -> int:
    """The process's umask: from /proc, since os.umask can only read it by setting it."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a temporary file beside `path`, then rename it.

    Args:
      path: the file; it gets the permissions of a new file.
      data: text is written as UTF-8.

    Raises:
      OSError: the folder cannot be written.
    """
    with replacing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` to write to, which takes its place if the block succeeds.

    Raises:
      OSError: the folder cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, new_file_mode())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A new folder that is renamed to `out` if the block succeeds and removed if it fails.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    with _parent_of_new(out) as parent:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
        try:
            yield folder
            folder.chmod(new_folder_mode())  # mkdtemp creates private folders
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """A new, empty file that is renamed to `out` if the block succeeds; as `atomic_folder`."""
    with _parent_of_new(out) as parent:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=parent)
        os.close(handle)
        file = Path(name)
        try:
            yield file
            file.chmod(new_file_mode())  # mkstemp creates private files
            file.rename(out)
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _parent_of_new(out: Path) -> Iterator[Path]:
    """The parent of `out`, created if missing; `out` itself must not exist."""
    try:
        if out.exists() or out.is_symlink():
            raise UserError(out, "already exists", "choose another name, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        yield out.parent
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error


def check_utf8(path: str | Path) -> None:
    """Check that a path is valid UTF-8, which TensorStore needs to write checkpoints.

    Args:
      path: checked as an absolute path.

    Raises:
      UserError: the path is not UTF-8, or contains a NUL.
    """
    if "\0" in str(path):
        raise UserError(repr(str(path)), "has a NUL, which no file name can contain")
    try:
        str(Path(path).absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        reason = "has a name that is not UTF-8, and checkpoints need one that is"
        raise UserError(path, reason, "rename it, or the folder above it") from error


def cache_root(cache_dir: str | None = None) -> Path:
    """The cache folder: as configured, else from the environment (see DataConfig)."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if variable := os.environ.get("LLMJAX_CACHE"):
        return Path(variable).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmjax"
