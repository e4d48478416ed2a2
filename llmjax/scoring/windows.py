"""Sliding windows over documents, and packing of windows into rows: pure NumPy.

A document t1..tn is the stream BOS, t1, ..., tn; each token is the target of the one before. The
first window has `context` targets and counts them all. Each later one starts `stride` tokens
further on and counts only its last `stride` targets, the new ones; the rest is their context. So
every target counts once, and is predicted from its whole document so far or from at least
context - stride + 1 tokens.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]


class Window(NamedTuple):
    """A window of one document's stream.

    Attributes:
      stream: int32 [n + 1]; inputs are stream[:-1], targets stream[1:].
      skip: number of leading targets that an earlier window counts.
    """

    stream: np.ndarray
    skip: int

    @property
    def counted(self) -> np.ndarray:
        """The targets that this window counts, int32 [n - skip]."""
        return self.stream[1 + self.skip :]

    def __len__(self) -> int:
        """The number of targets, n."""
        return self.stream.shape[0] - 1


class Slot(NamedTuple):
    """The position of a window in a batch."""

    window: Window
    row: int
    start: int

    def read(self, values: np.ndarray) -> np.ndarray:
        """Select the values, of [rows, length], of the targets that the window counts."""
        end = self.start + len(self.window)
        return values[self.row, self.start + self.window.skip : end]


def cut_windows(
    pieces: Iterable[np.ndarray], bos_id: int, context: int, stride: int
) -> Iterator[Window]:
    """Cut a streamed document into windows, in the memory of about one window.

    Args:
      pieces: the document's tokens, int32, in consecutive pieces.
      bos_id: the first input.
      context: maximum inputs of a window.
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


def pack(windows: Iterable[Window], rows: int, length: int) -> Iterator[tuple[Batch, list[Slot]]]:
    """Pack windows into rows, first fit; short ones share a row as segments.

    Args:
      windows: of at most `length` targets.
      rows: rows per batch, padded in the last one.
      length: tokens per row.

    Yields:
      A batch of model inputs [rows, length], with weight 0 and segment 0 for padding, and its slots
      in the order of the windows.
    """
    slots: list[Slot] = []
    filled = np.zeros(rows, np.int64)
    for window in windows:
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
        index = (row, slice(start, start + len(window)))
        batch["inputs"][index] = window.stream[:-1]
        batch["targets"][index] = window.stream[1:]
        batch["segments"][index] = documents[row]
        batch["positions"][index] = np.arange(len(window))
        batch["weights"][row, start + window.skip : start + len(window)] = 1
    return batch
