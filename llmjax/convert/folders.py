"""Folders that appear under their name only when all is in them."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llmjax.errors import UserError


@contextlib.contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """A new folder that is given the name `out` if all goes well, and else removed.

    Raises:
      UserError: `out` exists, or cannot be written.
    """
    if out.exists() or out.is_symlink():
        raise UserError(out, "exists already", "choose another name, or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's folder is private
        folder.rename(out)
    except OSError as error:
        raise UserError(out, f"cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
