"""Robust standard streams, even if closed, full, or of an encoding other than UTF-8.

- A closed descriptor is opened on /dev/null; otherwise the next opened file would get its number,
  and with it all that libraries write to "stderr".
- stdout escapes characters that its encoding lacks. A failed write raises `OutputError`, to tell it
  from errors of other files. If it is closed, output is dropped.
- stderr drops what cannot be written: an unread log must not end a run.
- stdin raises `UserError` when it is read and closed.
"""

import io
import os
import select
import sys
from typing import Any, TextIO

from llmjax.errors import UserError

STDIN, STDOUT, STDERR = range(3)


class OutputError(OSError):
    """Standard output cannot be written, for another reason than a broken pipe."""


def hold_standard_streams() -> None:
    """Replaces the standard streams by robust ones, unless something else has replaced them, such
    as a notebook."""
    for descriptor in (STDIN, STDOUT, STDERR):
        _occupy(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()), encoding="utf-8")
    if sys.stdout is sys.__stdout__:
        sys.stdout = _held(sys.stdout, _Output, STDOUT)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _held(sys.stderr, _Log, STDERR)


def finish_output() -> None:
    """Flushes standard output.

    Raises:
      BrokenPipeError: its reader has left.
      OutputError: it cannot be written.
    """
    sys.stdout.flush()


def drop_output() -> None:
    """Drops buffered output, so that Python's last flush succeeds."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
    except (OSError, ValueError):  # a stream without a descriptor
        pass


def _occupy(descriptor: int) -> None:
    """Opens a closed descriptor on /dev/null. Those below it are open, so it is the next one."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _held(stream: TextIO | None, kind: type[io.FileIO], descriptor: int) -> TextIO:
    encoding, errors, lines = "utf-8", "strict", False
    if stream is not None:
        stream.flush()
        encoding, errors = stream.encoding, stream.errors or "strict"
        unbuffered = bool(getattr(stream, "write_through", False))
        lines = bool(getattr(stream, "line_buffering", False)) or unbuffered
    if errors in ("strict", "surrogateescape"):  # any other is the user's choice
        errors = "backslashreplace"
    raw = kind(descriptor if stream is not None else os.open(os.devnull, os.O_WRONLY), "w")
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=lines
    )


class _Descriptor(io.FileIO):
    """A descriptor that stays open when this is closed."""

    def __init__(self, descriptor: int, mode: str):
        super().__init__(descriptor, mode, closefd=False)

    def write(self, data: Any, /) -> int:
        """Blocks, even if another process has made the terminal non-blocking."""
        while (written := super().write(data)) is None:
            select.select([], [self], [])
        return written


class _Output(_Descriptor):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


class _Log(_Descriptor):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


class _ClosedInput(io.RawIOBase):
    """Standard input that is closed."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        raise UserError("standard input", "is closed", "connect it, or name a file")
