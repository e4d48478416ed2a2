"""What happened since the last line of metrics: sums of steps, and the time that they took."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

from llmjax.step import StepMetrics


class Throughput:
    """Adds up steps and the time of steps alone.

    The clock starts when the first step has ended (it compiled), and stands still in `paused`:
    while evaluating, sampling and handing over a checkpoint. What is then written in the background
    is not counted apart.
    """

    def __init__(
        self,
        flops_per_token: float,
        peak_flops: float | None,
        data_wait: Callable[[], float],
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Args:
        flops_per_token: model FLOPs, forward and backward (`model.flops_per_token`).
        peak_flops: of all devices, or None.
        data_wait: seconds that steps have waited for batches, since any time.
        clock: seconds since any time.
        """
        self._flops_per_token, self._peak = flops_per_token, peak_flops
        self._data_wait, self._clock = data_wait, clock
        self._running = False
        self._since = self._wait_since = 0.0
        self._seconds = self._waited = self._timed_tokens = 0.0
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._last: StepMetrics | None = None
        self._all_seconds = self._all_steps = 0.0

    def add(self, metrics: StepMetrics) -> None:
        """Counts a step that has ended, with its metrics on the host."""
        if self._running:
            self._timed_tokens += float(metrics.tokens)
            self._all_steps += 1
        if not metrics.skipped:
            for name, (total, weight) in metrics.sums.items():
                self._sums[name][0] += float(total)
                self._sums[name][1] += float(weight)
        self._last = metrics
        if not self._running:
            self._start()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of the block; call it when the devices have nothing to do."""
        was_running = self._running
        self._stop()
        yield
        if was_running:
            self._start()

    @property
    def seconds(self) -> float:
        """Time of all steps so far, the first left out."""
        return self._all_seconds + (self._clock() - self._since if self._running else 0.0)

    @property
    def seconds_per_step(self) -> float | None:
        """Their mean; None before the second step."""
        return self.seconds / self._all_steps if self._all_steps else None

    def report(self) -> dict[str, float | None]:
        """Metrics since the last report; None where there are none.

        What losses name is averaged over the steps since then but skipped ones; `mfu` is the model
        FLOP/s as a fraction of the devices' bfloat16 peak.
        """
        if self._running:
            self._stop()
            self._start()
        last, seconds = self._last, self._seconds
        rate = self._timed_tokens / seconds if seconds > 0 and self._timed_tokens else None
        flops = None if rate is None else rate * self._flops_per_token
        means = self._sums.items()
        result: dict[str, float | None] = {
            **{name: total / weight if weight else None for name, (total, weight) in means},
            "learning_rate": None if last is None else float(last.learning_rate),
            "gradient_norm": None if last is None else float(last.gradient_norm),
            "tokens_per_second": rate,
            "model_flops_per_second": flops,
            "mfu": None if flops is None or self._peak is None else flops / self._peak,
            "data_wait_share": self._waited / seconds if rate is not None else None,
        }
        for sums in self._sums.values():
            sums[:] = 0.0, 0.0
        self._seconds = self._waited = self._timed_tokens = 0.0
        return {name: _finite(value) for name, value in result.items()}

    def _start(self) -> None:
        self._running = True
        self._since, self._wait_since = self._clock(), self._data_wait()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            spent = self._clock() - self._since
            self._seconds += spent
            self._all_seconds += spent
            self._waited += self._data_wait() - self._wait_since


def _finite(value: float | None) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None
