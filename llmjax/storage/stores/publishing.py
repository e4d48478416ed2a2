"""Files of a folder, local or in a bucket, that are written one by one and each appear complete."""

import os
import shutil
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes
from llmjax.storage.cache_folders import unwritable_is_user_error, write_file
from llmjax.storage.stores.path import Location, StorePath
from llmjax.storage.writing import replacing


def put_bytes(path: Location, data: bytes) -> None:
    """Writes a file or an object, which appears complete.

    Raises:
      UserError: it cannot be written.
    """
    if isinstance(path, StorePath):
        path.write_bytes(data)
    else:
        write_file(path, data)


def put_file(path: Location, file: Path) -> None:
    """Copies a local file to a file or an object, which appears complete.

    Raises:
      UserError: it cannot be written.
    """
    if isinstance(path, StorePath):
        path.upload(file)
        return
    with unwritable_is_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as target, file.open("rb") as source:
            shutil.copyfileobj(source, target, 1 << 20)


def get_bytes(path: Location, limit: int) -> bytes | None:
    """The content of a file or an object; None if there is none.

    Raises:
      UserError: it is larger than `limit` bytes, or cannot be read.
    """
    if not path.is_file():
        return None
    return path.read_bytes(limit) if isinstance(path, StorePath) else read_bytes(path, limit)


def file_sizes(folder: Location) -> dict[str, int]:
    """The bytes of each file right in a folder, by name; none if there is no such folder.

    Raises:
      UserError: it cannot be read.
    """
    if isinstance(folder, StorePath):
        files = folder.files().items()
        return {name: info.size for name, info in files if "/" not in name}
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.stat().st_size
                for entry in entries
                if entry.is_file() and not entry.name.startswith(".")
            }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(folder, f"cannot be read: {error.strerror or error}") from error
