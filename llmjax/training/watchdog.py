"""Ends a run that hangs, and names the process.

Where a device, a network or a file system hangs, nothing fails: all processes wait for each other
without end. The watchdog of each process watches its own progress, and knows over the link how far
the others are. What it ends exits with a code of its own, HUNG, after which a launcher may start
the run again. (The heartbeat of the link notices that a process does not answer at all.)
"""

import contextlib
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import jax

from llmjax.errors import HUNG
from llmjax.parallel.distributed import Link
from llmjax.parallel.distributed.link import show_threads
from llmjax.training.stopping import StartStatus

FACTOR = 20
"""A step may take this many times the usual."""
RECENT = 100
"""Steps of which the median is the usual time."""
INTERVAL = 5.0
"""Seconds between checks, at most."""


class Watchdog:
    """A thread that ends the process if training makes no progress. Use it as a context manager."""

    def __init__(
        self,
        seconds: float,
        status: StartStatus,
        link: Link | None,
        say: Callable[[str], None],
        end: Callable[[int], object] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:
        seconds: without progress, at least, until the process is ended; 0: never.
        status: how far the run is, for messages.
        link: to the other processes, if there is one.
        say: prints a line.
        end: ends the process with an exit code.
        clock: seconds from any starting point.
        """
        self._seconds, self._status, self._link = seconds, status, link
        self._say, self._end, self._clock = say, end, clock
        self.interval = min(INTERVAL, seconds / 4)
        self._last = self._checked = clock()
        self._times: deque[float] = deque(maxlen=RECENT)
        self._is_off = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        self._tell_busy(False)
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._tell_busy(True)
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def start_step(self, step: int) -> None:
        """Notes that a step was given to the devices."""
        if self._link is not None:
            self._link.heartbeat.position = step

    def progress(self) -> None:
        """Notes that a step, or a batch of an evaluation, has ended."""
        now = self._clock()
        self._times.append(now - self._last)
        self._last = now

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Does not watch the block, which may take any time, such as compilation."""
        self._is_off = True
        self._tell_busy(True)
        try:
            yield
        finally:
            self._last, self._is_off = self._clock(), False
            self._tell_busy(False)

    def _tell_busy(self, is_busy: bool) -> None:
        """Tells the others whether they have to be patient with this process."""
        if self._link is not None:
            self._link.heartbeat.is_busy = is_busy

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self.check()

    def check(self) -> None:
        """Ends the process, and with it the others, if no step ends any more."""
        now = self._clock()
        if now - self._checked > 3 * self.interval + INTERVAL:  # this process was suspended
            self._last = now
        if self._link is not None and self._link.heartbeat.others_are_busy():
            self._last = now  # as when they still compile a step that this one has in its cache
        self._checked = now
        stuck = now - self._last
        usual = statistics.median(self._times) if self._times else 0.0
        limit = max(self._seconds, FACTOR * usual)
        if self._link is not None and jax.process_index() > 0:
            limit += 3 * self.interval  # process 0 hears from all, and can tell which one hangs
        if self._is_off or stuck <= limit:
            return
        spent = f"no step has ended for {stuck:.0f} s, where one takes {usual:.2g} s"
        culprit = None if self._link is None else self._suspect()
        self._end_because_of(culprit, spent)

    def _suspect(self) -> int | None:
        """The process that hangs: one that no longer answers, else the one that has started fewer
        steps than all others; None if there is no such one."""
        assert self._link is not None
        heartbeat = self._link.heartbeat
        if silent := heartbeat.silent(2.5 * self.interval):
            return silent[0]
        started = heartbeat.positions() | {jax.process_index(): heartbeat.position}
        fewest = min(started.values())
        behind = [process for process, steps in started.items() if steps == fewest]
        return behind[0] if len(behind) == 1 < len(started) else None

    def _end_because_of(self, process: int | None, reason: str) -> None:
        """Prints what the threads are doing, tells the others, and ends this process."""
        self._stop.set()
        where = f"at step {self._status.step}"
        if self._link is not None:
            guilty = jax.process_index() if process is None else process
            doubt = "" if process is not None else " (no process is behind the others)"
            self._link.end(guilty, HUNG, f"hangs {where}: {reason}{doubt}")
            return
        self._say(f"llmjax: error: hangs {where}: {reason}; {self._status.resumes()}")
        show_threads()
        self._end(HUNG)
