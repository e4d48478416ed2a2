"""Throughput: metrics summed over steps and the time they took; what devices can do at best."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import jax

from llmjax.parallel.chips import chip_of
from llmjax.step import StepMetrics


class Throughput:
    """Sums metrics and times of steps between reports.

    The clock starts after the first step, which compiles, and is stopped in `paused` for
    evaluation, sampling and the synchronous part of a save. Writing in the background is not
    subtracted.
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
        peak_flops: FLOP/s of all devices; None if unknown.
        data_wait: total seconds that steps have waited for batches.
        clock: seconds from any starting point.
        """
        self._flops_per_token, self._peak = flops_per_token, peak_flops
        self._data_wait, self._clock = data_wait, clock
        self._running = False
        self._since = self._wait_since = 0.0
        self._seconds = self._waited = self._timed_tokens = self._timed_flops = 0.0
        self._sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._last: StepMetrics | None = None
        self._all_seconds = self._all_steps = 0.0

    def add(self, metrics: StepMetrics, flops_per_token: float | None = None) -> None:
        """Adds a finished step.

        Args:
          metrics: on the host.
          flops_per_token: of this step; None: as given at the start.
        """
        if self._running:
            per_token = self._flops_per_token if flops_per_token is None else flops_per_token
            self._timed_tokens += float(metrics.tokens)
            self._timed_flops += float(metrics.tokens) * per_token
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
        """Leaves the block out of the time; call it when the devices are idle."""
        was_running = self._running
        self._stop()
        yield
        if was_running:
            self._start()

    @property
    def seconds(self) -> float:
        """Time of all steps so far, except the first."""
        return self._all_seconds + (self._clock() - self._since if self._running else 0.0)

    @property
    def seconds_per_step(self) -> float | None:
        """The mean time of a step; None before the second."""
        return self.seconds / self._all_steps if self._all_steps else None

    def report(self) -> dict[str, float | None]:
        """Metrics since the last report; None if undefined or not finite.

        The loss's metrics are averaged over those steps, without skipped ones; `mfu` is the model
        FLOP/s as a fraction of the devices' bfloat16 peak.
        """
        if self._running:
            self._stop()
            self._start()
        last, seconds = self._last, self._seconds
        rate = self._timed_tokens / seconds if seconds > 0 and self._timed_tokens else None
        flops = None if rate is None else self._timed_flops / seconds
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
        self._seconds = self._waited = self._timed_tokens = self._timed_flops = 0.0
        return {name: _finite(value) for name, value in result.items()}

    def _start(self) -> None:
        self._running = True
        self._since, self._wait_since = self._clock(), self._data_wait()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            elapsed = self._clock() - self._since
            self._seconds += elapsed
            self._all_seconds += elapsed
            self._waited += self._data_wait() - self._wait_since


def _finite(value: float | None) -> float | None:
    """The value; None for NaN and infinity, which JSON lacks."""
    return value if value is not None and math.isfinite(value) else None


def peak_flops() -> float | None:
    """FLOP/s of all devices of all processes together; None if one is not in the table."""
    chips = [chip_of(device.device_kind) for device in jax.devices()]
    known = [chip.flops for chip in chips if chip is not None]
    return sum(known) if len(known) == len(chips) else None


def memory_bytes() -> int | None:
    """Peak memory of the devices of this process, the largest so far; None if unknown."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stat["peak_bytes_in_use"] for stat in stats if stat and "peak_bytes_in_use" in stat]
    return max(peaks, default=None)
