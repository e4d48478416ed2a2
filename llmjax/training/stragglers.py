"""Names processes that keep the others waiting.

A step ends in all processes at the same time, since its collectives wait for the slowest. What
differs is the time that a process itself takes for a step: waiting for its data, and Python's work
until it waits for the devices. Each process measures that, and process 0 compares them: they arrive
over the link, never through the devices. A slow device is not seen: the host waits for it just as
for the devices of others.
"""

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import jax

from llmjax.parallel.distributed import Link

RECENT = 100
"""Steps of which the median counts."""
FEWEST = 5
"""Steps before there is a median."""
SLOW = 0.2
"""The share of a step by which a straggler takes longer than the median of all processes."""


class Stragglers:
    """Measures this process's share of each step; in process 0, compares it with the others'."""

    def __init__(
        self,
        link: Link | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Args:
        link: to the other processes; None: nothing is compared.
        say: prints a line.
        clock: seconds from any starting point.
        """
        self._link, self._say, self._clock = link, say, clock
        self._own: deque[float] = deque(maxlen=RECENT)
        self._whole: deque[float] = deque(maxlen=RECENT)
        self._since, self._waited = clock(), 0.0
        self._named: int | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as waiting for the devices, and thus for other processes."""
        start = self._clock()
        yield
        self._waited += self._clock() - start

    def end_step(self) -> None:
        """Notes that a step has ended; the next one begins."""
        whole = self._clock() - self._since
        self._whole.append(whole)
        self._own.append(max(0.0, whole - self._waited))
        self.restart()

    def restart(self) -> None:
        """Restarts the current step: what came before is not counted."""
        self._since, self._waited = self._clock(), 0.0

    def report(self, step: int) -> dict[str, float | str | None]:
        """Sends this process's time to process 0, which compares all and says what has changed.

        Returns:
          In process 0, the straggler for the record of metrics, None if there is none: `straggler`
          (its number), `straggler_host`, `straggler_seconds` (its share of a step) and
          `typical_seconds` (the median of all). Empty without other processes.
        """
        if self._link is None or len(self._own) < FEWEST:
            return {}
        own = statistics.median(self._own)
        if jax.process_index() > 0:
            self._link.send_seconds(own)
            return {}
        times = self._link.seconds() | {0: own}
        typical = statistics.median_low(times.values())
        slowest = straggler(times, statistics.median(self._whole))
        if slowest != self._named:
            self._say(self._change(step, slowest, times, typical))
            self._named = slowest
        return {
            "straggler": slowest,
            "straggler_host": None if slowest is None else self._link.host(slowest),
            "straggler_seconds": None if slowest is None else times[slowest],
            "typical_seconds": typical,
        }

    def _change(
        self, step: int, slowest: int | None, times: Mapping[int, float], typical: float
    ) -> str:
        """The line about another straggler than before, or none."""
        assert self._link is not None
        if slowest is None:
            return f"llmjax: step {step}: process {self._named} no longer keeps the others waiting"
        return (
            f"llmjax: step {step}: process {slowest} (host {self._link.host(slowest)}) keeps the "
            f"others waiting: its data and host take {times[slowest]:.2g} s of a step of "
            f"{statistics.median(self._whole):.2g} s, {times[slowest] - typical:.2g} s more than "
            "the median process"
        )


def straggler(times: Mapping[int, float], whole: float) -> int | None:
    """The process that takes longest, if that is longer than the median by SLOW of a step.

    The median of an even number of processes is the lower of the two in the middle, so that one of
    two processes can be named.

    Args:
      times: seconds that each process takes for a step without waiting for the devices.
      whole: seconds of a step.
    """
    slowest = max(times, key=lambda process: times[process])
    excess = times[slowest] - statistics.median_low(times.values())
    return slowest if len(times) > 1 and excess > SLOW * whole else None
