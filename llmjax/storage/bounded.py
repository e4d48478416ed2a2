"""Bounded reads of regular files, and UTF-8 decoding."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llmjax.errors import UserError

BOM = b"\xef\xbb\xbf"
"""The UTF-8 byte order mark; not part of the text."""

# Longest first: the UTF-32 mark starts with the UTF-16 one.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def other_encoding(start: bytes) -> str | None:
    """Describe the encoding if a byte order mark says it is not UTF-8; else None.

    Args:
      start: the first four bytes of a text, or all of a shorter one.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return f"{name}, not UTF-8 (it begins with the byte order mark {mark.hex(' ')})"
    return None


MIB = 2**20


def size_text(size: int) -> str:
    """Format a size in bytes: 512 bytes, 3.5 KiB, 64 MiB."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.4g} {unit}"


def read_bytes(path: str | Path, limit: int, *, fix: str = "check the file") -> bytes:
    """Read a regular file of at most `limit` bytes.

    File type and size are checked before reading, so a FIFO, a device or a huge file costs neither
    time nor memory. A file that grows past the limit during the read is refused as well.

    Args:
      path: the file.
      limit: in bytes.
      fix: advice for the error message.

    Raises:
      UserError: the file is missing, not regular, larger than `limit`, or unreadable.
    """
    with regular_file(path, fix=fix) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            data = file.read(limit + 1)
            if len(data) <= limit:
                return data
        actual = size_text(max(size, limit + 1))
        raise UserError(path, f"is {actual}, and at most {size_text(limit)} are read", fix)


@contextlib.contextmanager
def regular_file(path: str | Path, *, fix: str = "check the file") -> Iterator[BinaryIO]:
    """Open a regular file for reading; FIFOs and devices are refused without blocking.

    Raises:
      UserError: the file is missing, not regular, or unreadable, including inside the block.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(path, "is not a regular file", fix)
            yield file
    except OSError as error:
        raise UserError(path, f"cannot be read: {error.strerror or error}", fix) from error
    except ValueError as error:  # a name with a NUL
        raise UserError(path, f"cannot be read: {error}", fix) from error


def read_text(path: str | Path, limit: int, *, fix: str = "check the file") -> str:
    """Read a UTF-8 file with `read_bytes`, dropping a leading byte order mark.

    Raises:
      UserError: as `read_bytes`; also if it is not UTF-8.
    """
    data = read_bytes(path, limit, fix=fix)
    if encoding := other_encoding(data[:4]):
        raise UserError(path, f"is {encoding}", fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"is not UTF-8: byte 0x{byte:02x} at offset {error.start}"
        raise UserError(path, reason, fix) from error
