"""Names of files and folders that C++ libraries can be given."""

from pathlib import Path

from llmjax.errors import UserError


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
