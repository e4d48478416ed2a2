"""Documents as windows of a stated context, and windows packed into rows: pure NumPy.

A document t1..tn is the stream BOS, t1, ..., tn: each token of it is the target of the one before.
The first window takes `context` targets and counts them all. Each later one starts `stride` further
on and counts only the last `stride` of its targets, which no window before it held; the rest is
context for them. So every target counts once, and is predicted from all of its document that
precedes it or from at least context - stride + 1 tokens.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]


class Window(NamedTuple):
    """A piece of one document's stream.

    Attributes:
      stream: int32 [n + 1]; inputs are stream[:-1], targets stream[1:].
      skip: how many of its first targets an earlier window counts.
    """

    stream: np.ndarray
    skip: int

    @property
    def counted(self) -> np.ndarray:
        """The targets that count here: int32 [n - skip]."""
        return self.stream[1 + self.skip :]

    def __len__(self) -> int:
        """The number of targets, n."""
        return self.stream.shape[0] - 1


class Slot(NamedTuple):
    """Where a window stands in a batch."""

    window: Window
    row: int
    start: int

    def read(self, values: np.ndarray) -> np.ndarray:
        """Out of values [rows, length], those of the targets that the window counts."""
        end = self.start + len(self.window)
        return values[self.row, self.start + self.window.skip : end]


def cut_windows(
    pieces: Iterable[np.ndarray], bos_id: int, context: int, stride: int
) -> Iterator[Window]:
    """Cuts one document into windows as it comes in; holds little more than one of them.

    Args:
      pieces: the document's tokens, int32, whole or in consecutive pieces.
      bos_id: what the first token is predicted from.
      context: the most inputs of a window.
      stride: from 1 to context.
    """
    stream, skip = np.array([bos_id], np.int32), 0
    for piece in pieces:
        stream, start = np.concatenate([stream, piece]), 0
        while len(stream) - start > context:
            yield Window(stream[start : start + context + 1], skip)
            start, skip = start + stride, context - stride
        stream = stream[start:]
    if len(stream) - 1 > skip:
        yield Window(stream, skip)


def pack(items: Iterable[Window], rows: int, length: int) -> Iterator[tuple[Batch, list[Slot]]]:
    """Puts windows into the first row with room for them; short ones share a row as segments.

    Args:
      items: windows of at most `length` targets.
      rows: rows of each batch, the last one too (what is left empty is padding).
      length: tokens of a row.

    Yields:
      A batch [rows, length] as the model takes it, with weight 0 and segment 0 where padded, and
      its slots in the order of the windows.
    """
    slots: list[Slot] = []
    filled = np.zeros(rows, np.int64)
    for window in items:
        fits = np.flatnonzero(filled + len(window) <= length)
        if not fits.size:
            yield _batch(slots, rows, length), slots
            slots, fits = [], np.arange(rows)
            filled[:] = 0
        row = int(fits[0])
        slots.append(Slot(window, row, int(filled[row])))
        filled[row] += len(window)
    if slots:
        yield _batch(slots, rows, length), slots


def _batch(slots: list[Slot], rows: int, length: int) -> Batch:
    names = ("inputs", "targets", "segments", "positions")
    batch: Batch = {name: np.zeros((rows, length), np.int32) for name in names}
    batch["weights"] = np.zeros((rows, length), np.float32)
    documents = [0] * rows
    for window, row, start in slots:
        documents[row] += 1
        place = (row, slice(start, start + len(window)))
        batch["inputs"][place] = window.stream[:-1]
        batch["targets"][place] = window.stream[1:]
        batch["segments"][place] = documents[row]
        batch["positions"][place] = np.arange(len(window))
        batch["weights"][row, start + window.skip : start + len(window)] = 1
    return batch
