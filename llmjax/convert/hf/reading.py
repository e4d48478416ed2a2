"""Files of a published model, opened only where they are regular files."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llmjax.errors import UserError
from llmjax.storage.json_documents import read_json


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading in parts; a FIFO or a device is never waited for.

    Raises:
      UserError: it does not exist, is no regular file, or cannot be read.
    """
    try:
        # Opening a FIFO would wait for its writer without O_NONBLOCK.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(path, "is not a regular file", "download it again")
            yield file
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror or error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
      UserError: it does not, or is beyond the limits of `llmjax.storage.SETTINGS`, or cannot be
        read.
    """
    found = read_json(path, fix="restore the file")
    if not isinstance(found, dict):
        raise UserError(path, "is not a JSON object", "restore the file")
    return found
