"""Standard streams that hold, whatever they lead to: closed, full, of another encoding than UTF-8.

- A descriptor that is closed is given to /dev/null, or the next file that is opened would get its
  number, and with it all that libraries write to "stderr".
- stdout: what its encoding lacks is escaped. A write that fails raises `OutputError`, which differs
  from errors of other files. Where it is closed, results go nowhere.
- stderr: what cannot be written is dropped: no work is lost because nobody reads its log.
- stdin: reading it where it is closed is a `UserError`.
"""

import io
import os
import select
import sys
from typing import Any, TextIO

from llmjax.errors import UserError

STDIN, STDOUT, STDERR = range(3)


class OutputError(OSError):
    """Standard output cannot be written, other than because its reader has left."""


def hold_standard_streams() -> None:
    """Puts streams as described above in the place of this process's own.

    Streams that something else has put in their place, such as a notebook, stay as they are.
    """
    for descriptor in (STDIN, STDOUT, STDERR):
        _occupy(descriptor)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()), encoding="utf-8")
    if sys.stdout is sys.__stdout__:
        sys.stdout = _held(sys.stdout, _Output, STDOUT)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _held(sys.stderr, _Log, STDERR)


def finish_output() -> None:
    """Writes what is left of standard output.

    Raises:
      BrokenPipeError: its reader has left.
      OutputError: it cannot be written.
    """
    sys.stdout.flush()


def drop_output() -> None:
    """Sends all that is left for standard output nowhere, so that Python's last flush succeeds."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()
    except (OSError, ValueError):  # a stream without a descriptor
        pass


def _occupy(descriptor: int) -> None:
    """Gives a closed descriptor to /dev/null. Those below it are open, so it is the next one."""
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
    if errors in ("strict", "surrogateescape"):  # another choice is the user's
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
        """Waits where the descriptor does not, as a terminal that another process has changed."""
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
