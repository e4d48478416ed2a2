"""Folders and files that appear under their name only when all is in them."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.writing import new_file_mode, new_folder_mode


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A new folder that is given the name `out` if all goes well, and else removed.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    with _named_at_last(out) as parent:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
        try:
            yield folder
            folder.chmod(new_folder_mode())  # mkdtemp's folder is private
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """A new, empty file that is given the name `out` if all goes well, and else removed.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    with _named_at_last(out) as parent:
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
def _named_at_last(out: Path) -> Iterator[Path]:
    """The folder in which `out` is to be, made where it is not there yet."""
    try:
        if out.exists() or out.is_symlink():
            raise UserError(out, "exists already", "choose another name, or remove it")
        out.parent.mkdir(parents=True, exist_ok=True)
        yield out.parent
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error
