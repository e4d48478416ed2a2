"""Progress of long preparations: a callback, and a progress bar on the terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Called as progress(stage, bytes done, total bytes or None); 0 bytes: not counted."""


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Shows nothing."""


@contextlib.contextmanager
def terminal_progress() -> Iterator[Progress]:
    """A progress bar if stderr is a terminal; otherwise a line every ten seconds."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, object] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield show


def _lines() -> Progress:
    last = time.monotonic()

    def show(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        if sys.stderr is not None and time.monotonic() - last >= 10:
            last = time.monotonic()
            share = f" ({min(100, 100 * done // total)} %)" if total else ""
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                size = f": {done / 1e6:.1f} MB{share}" if done else ""
                print(f"{stage}{size}", file=sys.stderr, flush=True)

    return show
