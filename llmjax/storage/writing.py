"""Where and how files are written: readers see them either as they were or complete."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmjax.errors import UserError


def new_file_mode() -> int:
    """The permissions of a new file under the process's umask: 0o644 under the usual 0o022."""
    return 0o666 & ~umask()


def new_folder_mode() -> int:
    """The permissions of a new folder under the process's umask."""
    return 0o777 & ~umask()


def umask() -> int:
    """The process's umask; only by setting it can it be asked for."""
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
    """Writes a file beside `path`, then renames: readers see the old or the new.

    Args:
      path: the file; its permissions are those that the umask gives a new file.
      data: text is written as UTF-8.

    Raises:
      OSError: the folder cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, new_file_mode())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A new folder that gets the name `out` when the block succeeds, and is removed when it fails.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    with _parent_of_new(out) as parent:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
        try:
            yield folder
            folder.chmod(new_folder_mode())  # mkdtemp's folder is private
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic_file(out: Path) -> Iterator[Path]:
    """A new, empty file that gets the name `out` when the block succeeds; as `atomic_folder`."""
    with _parent_of_new(out) as parent:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=parent)
        os.close(handle)
        file = Path(name)
        try:
            yield file
            file.chmod(new_file_mode())  # mkstemp's file is private
            file.rename(out)
        finally:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _parent_of_new(out: Path) -> Iterator[Path]:
    """The folder of `out`, which must not exist yet; the folder is made where it is missing."""
    try:
        if out.exists() or out.is_symlink():
            raise UserError(out, "exists already", "choose another name, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        yield out.parent
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error


def check_utf8(path: str | Path) -> None:
    """Tells beforehand what tensorstore, which writes checkpoints, would fail at.

    Args:
      path: counts with all folders above it.

    Raises:
      UserError: it has bytes that are not UTF-8, or a NUL.
    """
    if "\0" in str(path):
        raise UserError(repr(str(path)), "has a NUL, which no name can have")
    try:
        str(Path(path).absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        reason = "has a name that is not UTF-8, and checkpoints need one that is"
        raise UserError(path, reason, "rename it, or the folder above it") from error


def cache_root(cache_dir: str | None = None) -> Path:
    """The folder of caches: as configured, or where the environment says (see DataConfig)."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if own := os.environ.get("LLMJAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "llmjax"
