"""What the measured processes share: their arguments, the timing of steps, and their results."""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.gpu.shapes import FULL, TOY, Shape, fitted

WINDOWS = 3
"""Of which the median is reported."""


class Training(Protocol):
    """Training of one framework."""

    def step(self) -> None:
        """Starts a step."""

    def wait(self) -> float:
        """Waits until all steps are done; returns the last loss."""


@dataclass(frozen=True)
class Row:
    """A result of a part."""

    case: str
    """Such as "packed"."""
    rate: float | None
    """Units per second; None: nothing was timed."""
    unit: str
    """Such as "tokens"."""
    seconds: float | None
    """Of a step."""
    peak_bytes: int | None = None
    """Most memory that the framework's arrays took so far; None: unknown."""
    note: str = ""
    weight_bytes: int | None = None
    """Decoding: that each step reads; None: something else."""
    shape: dict | None = None
    """Training: that was measured, as a dict of `Shape`."""


def emit(row: Row) -> None:
    """Prints a result, which counts even if the process is ended after it."""
    print(json.dumps(asdict(row)), flush=True)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all processes take."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--toy", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--memory", type=float, default=0.0, help="free bytes of the device")
    parser.add_argument("--folder", type=Path, default=Path("."), help="shared by all processes")
    return parser


def chosen_shape(args: argparse.Namespace) -> Shape:
    """The shape named by `args.model` that fits into the device's memory.

    Raises:
      SystemExit: none does.
    """
    if args.toy:
        return TOY[args.model]
    shape = fitted(FULL[args.model], args.memory)
    if shape is None:
        raise SystemExit(f"2 layers do not fit into {args.memory / 2**30:.0f} GiB")
    return shape


def time_steps(training: Training, toy: bool) -> tuple[float, float]:
    """(seconds of a step, the last loss), after a warm-up; windows of steps without a wait."""
    steps = 1 if toy else 5
    for _ in range(1 if toy else 3):
        training.step()
        training.wait()
    windows = []
    for _ in range(WINDOWS):
        start = time.perf_counter()
        for _ in range(steps):
            training.step()
        loss = training.wait()
        windows.append((time.perf_counter() - start) / steps)
    return statistics.median(windows), loss


def training_row(shape: Shape, case: str, seconds: float, peak: int | None, note: str) -> Row:
    """The result of training."""
    rate = shape.tokens / seconds
    return Row(case, rate, "tokens", seconds, peak, note, shape=asdict(shape))
