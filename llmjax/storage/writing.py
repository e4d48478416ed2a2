"""Files that readers see either as they were or complete."""

import os
import tempfile
from pathlib import Path


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
