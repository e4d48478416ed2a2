"""Progress of compression, on stderr."""

import sys
import time
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, float, int, float], None]
"""Called as progress(stage, bytes of the original done, total bytes, bytes of the archive so far or
0 if unknown)."""


def no_progress(stage: str, done: float, total: int, written: float) -> None:
    """Shows nothing."""


def line_progress() -> Progress:
    """Returns a callback that updates one line on a terminal, else prints one every ten seconds."""
    began, shown, terminal = time.monotonic(), time.monotonic(), _on_terminal()

    def show(stage: str, done: float, total: int, written: float) -> None:
        nonlocal shown
        now = time.monotonic()
        if sys.stderr is None or now - shown < (0.2 if terminal else 10) or not total:
            return
        shown = now
        ratio = f", {written / done:.1%} of its size" if written and done else ""
        speed = done / 1e3 / (now - began)
        line = f"{stage} {done / total:4.0%} of {total:,} bytes{ratio}, {speed:.2f} KB/s"
        print(
            f"\r{line}\x1b[K" if terminal else line, end="" if terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()

    return show


def end_line() -> None:
    """Clears the progress line of a terminal."""
    if _on_terminal():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
