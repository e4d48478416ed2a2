"""What commands show on a terminal: its width, a spinner, wrapped text."""

import contextlib
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator


def terminal_width() -> int:
    """Columns of help texts and listings."""
    return min(shutil.get_terminal_size().columns, 100)


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """Shows that something takes its time, if stderr is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


class WordWrap:
    """Breaks lines between words as text arrives in pieces; a word is written once it is complete.

    Control characters other than line breaks and tabs are left out: on a terminal they would be
    commands.
    """

    def __init__(self, write: Callable[[str], object], width: int):
        """Args:
        write: writes text.
        width: columns of a line.
        """
        self._write, self._width = write, width
        self._column = 0
        self._gap = self._word = ""

    def feed(self, text: str) -> None:
        """Adds a piece of text."""
        for character in text:
            if character == "\n":
                self.flush()
                self._write("\n")
                self._column, self._gap = 0, ""
            elif character in " \t":
                self.flush()
                self._gap += " " * 4 if character == "\t" else " "
            elif unicodedata.category(character) != "Cc":
                wide = _cells(character) == 2  # a line may break before and after it
                if wide or _cells(self._word) >= self._width:
                    self.flush()
                self._word += character
                if wide:
                    self.flush()

    def flush(self) -> None:
        """Writes the pending word."""
        if not self._word:
            return
        size = len(self._gap) + _cells(self._word)
        if self._column and self._column + size > self._width:
            self._write("\n")
            self._column, self._gap, size = 0, "", _cells(self._word)
        self._write(self._gap + self._word)
        self._column += size
        self._gap = self._word = ""


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
