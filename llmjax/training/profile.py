"""A trace of some steps, for XProf or TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import jax

WARMUP = 5  # steps before the trace: compilation and the first waits are not what one looks for


class Profile:
    """Traces a number of steps of process 0, from the sixth of this start on."""

    def __init__(self, folder: Path, steps: int):
        self._folder = folder
        self._steps = steps if jax.process_index() == 0 else 0
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def before(self, step: int, wait: Callable[[], object]) -> None:
        """Starts or ends the trace where it is due.

        Args:
          step: of this start, from 0; about to be taken.
          wait: returns when the devices have nothing to do.
        """
        if self._steps and step == WARMUP:
            wait()
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif self._running and step == WARMUP + self._steps:
            wait()
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
