"""Detects processes that are not dead but no longer answer, such as suspended ones.

From the roll call to its end, each process tells those that it is connected to, every few seconds
and in a thread of its own, that it runs, and how far it is. A process that is busy goes on doing
so; one that is suspended, or on a machine that hangs, does not, while its kernel keeps its
connections open.
"""

import threading
import time
from collections.abc import Callable, Mapping

from llmjax.parallel.distributed.messages import Connection

BEAT = 5.0
"""Seconds between messages, at most."""


class Heartbeat:
    """Sends this process's position, and hears of the others'. Its thread begins with `start`."""

    def __init__(
        self,
        connections: Mapping[int, Connection],
        end: Callable[[int, float], object],
        clock: Callable[[], float] = time.monotonic,
    ):
        """Args:
        connections: to other processes, by their numbers.
        end: ends the run because of a process that has been silent for so many seconds.
        clock: seconds from any starting point.
        """
        self._connections, self._end, self._clock = connections, end, clock
        self._checked = self._awake = clock()
        self._heard = dict.fromkeys(connections, (0, self._awake))
        self._busy = set[int]()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.position = 0
        """The steps that this process has started."""
        self.is_busy = True
        """Whether this process prepares or compiles, which may take any time."""
        self.seconds = 0.0
        """How long a process may be silent; 0: any time."""

    def start(self) -> None:
        """Starts the thread, which ends with the process."""
        self._thread.start()

    def hear(self, process: int, position: int, is_busy: bool) -> None:
        """Notes that a process runs, how many steps it has started, and whether it, or one that it
        hears of, is busy."""
        self._heard[process] = position, self._clock()
        (self._busy.add if is_busy else self._busy.discard)(process)

    def others_are_busy(self) -> bool:
        """Whether a process is busy for which this one has to wait."""
        return bool(self._busy)

    def forget(self, process: int) -> None:
        """Expects nothing more of a process, which has finished."""
        self._heard.pop(process, None)
        self._busy.discard(process)

    def positions(self) -> dict[int, int]:
        """How many steps the connected processes have started."""
        return {process: position for process, (position, _) in self._heard.copy().items()}

    def silent(self, seconds: float) -> tuple[int, float] | None:
        """The process that has been silent longest, and for how long; None if it is less than
        `seconds`."""
        now = self._clock()
        times = {process: now - at for process, (_, at) in self._heard.copy().items()}
        longest = max(times.items(), key=lambda item: item[1], default=(0, 0.0))
        return longest if longest[1] > seconds else None

    @property
    def interval(self) -> float:
        """Seconds between messages."""
        return min(BEAT, self.seconds / 4 or BEAT)

    def check(self) -> None:
        """Sends the position, and ends the run if another process is silent for too long."""
        now = self._clock()
        if now - self._checked > 3 * self.interval + BEAT:
            self._awake = now  # this process was suspended, perhaps with all others
        self._checked = now
        for process, connection in self._connections.items():
            is_busy = self.is_busy or bool(self._busy - {process})
            connection.send({"at": self.position, "busy": is_busy})
        silent = self.silent(self.seconds) if self.seconds else None
        if silent and now - self._awake > self.seconds:
            self._end(*silent)

    def _beat(self) -> None:
        while True:
            time.sleep(self.interval)
            self.check()
