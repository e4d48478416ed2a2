"""Whole files, read only where they are regular files of bounded size, and texts in UTF-8."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llmjax.errors import UserError

BOM = b"\xef\xbb\xbf"
"""The byte order mark in UTF-8: a sign of the encoding, and no part of the text."""

# The longer ones first: that of UTF-32 begins like that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def other_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark names where it is not UTF-8, in a few words.

    Args:
      start: at least the first four bytes of a text, where it has as many.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return f"{name}, not UTF-8 (it begins with the byte order mark {mark.hex(' ')})"
    return None


MIB = 2**20


def size_text(size: int) -> str:
    """A number of bytes as people write it: 512 bytes, 3.5 KiB, 64 MiB."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.4g} {unit}"


def read_bytes(path: str | Path, limit: int, *, fix: str = "check the file") -> bytes:
    """The contents of a regular file of at most `limit` bytes.

    The kind and the size are looked at before anything is read, so a FIFO, a device or an enormous
    file costs neither time nor memory; a file that grows meanwhile is refused as well.

    Args:
      path: the file.
      limit: in bytes.
      fix: what the message advises.

    Raises:
      UserError: it does not exist, is no regular file, is larger than `limit`, or cannot be read.
    """
    with regular_file(path, fix=fix) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= limit:
            data = file.read(limit + 1)
            if len(data) <= limit:
                return data
        found = size_text(max(size, limit + 1))
        raise UserError(path, f"is {found}, and at most {size_text(limit)} are read", fix)


@contextlib.contextmanager
def regular_file(path: str | Path, *, fix: str = "check the file") -> Iterator[BinaryIO]:
    """A regular file, open for reading; a FIFO or a device is refused without waiting for it.

    Raises:
      UserError: it does not exist, is no regular file, or cannot be read, also within the block.
    """
    try:
        # Opening a FIFO would wait for its writer without O_NONBLOCK.
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
    """As `read_bytes`, decoded as UTF-8; a byte order mark at the beginning is dropped.

    Raises:
      UserError: as `read_bytes`; also when it is not UTF-8.
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
