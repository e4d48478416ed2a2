"""The process, where it runs one command and nothing else: when it began, and what it does last."""

import atexit
import contextlib
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

_STARTED = 19
"""The place of `starttime` in /proc/self/stat, after the name of the program: see proc(5)."""


class Program:
    """Create it before anything that registers functions with `atexit`: its own then run last, when
    JAX has left the other processes."""

    def __init__(self) -> None:
        self.began = process_began()
        """When the process began, in seconds since the epoch."""
        self._last: list[Callable[[], None]] = []
        atexit.register(self._end)

    def do_last(self, action: Callable[[], None]) -> None:
        """Calls a function when the interpreter ends; what it raises is dropped."""
        self._last.append(action)

    def _end(self) -> None:
        # Else Python collects the objects of all modules: half a second after JAX was used.
        gc.freeze()
        for action in self._last:
            with contextlib.suppress(Exception):
                action()


def process_began() -> float:
    """When this process began, in seconds since the epoch, before Python was loaded; the present
    where the system does not say."""
    now = time.time()
    try:
        # The name of the program may hold spaces and parentheses.
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[_STARTED])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, IndexError, OSError, ValueError):  # another system than Linux
        return now
    return now - age if ticks and age > 0 else now
