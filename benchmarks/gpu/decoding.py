"""What both decoding processes share: batches, lengths, and the timing."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.decoders import Generate
from benchmarks.gpu.measuring import WINDOWS, Row, emit

BATCHES = (1, 16, 128)
EXPORT = "llama"
"""The folder of our export, in the folder that the parts share."""


def lengths(toy: bool) -> tuple[int, int]:
    """(tokens of a prompt, new tokens)."""
    return (16, 4) if toy else (128, 64)


def tokens_file(folder: Path, rows: int) -> Path:
    """Where our tokens of a batch are, [rows, new tokens]."""
    return folder / f"tokens-{rows}.npy"


def measure_decoding(
    generate: Generate,
    rows: int,
    peak: Callable[[], int | None],
    weight_bytes: int,
    note: Callable[[np.ndarray], str],
    toy: bool,
) -> None:
    """Times a decoder after a warm-up, and prints the result.

    Args:
      generate: of `benchmarks.decoders`.
      rows: of the batch.
      peak: most bytes so far.
      weight_bytes: that a step reads.
      note: from the generated tokens.
      toy: once instead of several times.
    """
    generate()
    times = []
    for _ in range(1 if toy else WINDOWS):
        start = time.perf_counter()
        out = generate()
        times.append(time.perf_counter() - start)
    seconds, count = statistics.median(times), out.shape[1]
    rate, step = rows * count / seconds, seconds / count
    emit(Row(f"batch {rows}", rate, "tokens", step, peak(), note(out), weight_bytes))
