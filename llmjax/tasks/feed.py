"""Batches of several tasks: the task of each step, and the examples in its rows.

A batch is a function of (seed, step), computed without the steps before it.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from llmjax.data.batch import Arrays
from llmjax.tasks.examples import Example
from llmjax.tasks.packing import RowShape, lay_out, pack

# Random streams: the task of each step; the order of a task's examples in an epoch.
STEP_STREAM, EPOCH_STREAM = 0x537465, 0x45706F
BLOCK = 1 << 14
"""Steps whose tasks are sampled at once."""


class Source(NamedTuple):
    """The training set of one task.

    Attributes:
      examples: the encoded examples.
      shape: of the packed rows.
      weight: sampling weight, relative to the other tasks.
      repack: see `TaskConfig.repack`.
    """

    examples: Sequence[Example]
    shape: RowShape
    weight: float = 1.0
    repack: bool = False


class TaskFeed:
    """The batches of a run (a `data.loader.Feed`): each step samples one task by weight and takes
    the next rows of that task's endless stream of epochs."""

    def __init__(self, sources: Sequence[Source], batch_size: int, seed: int):
        """Args:
        sources: the tasks.
        batch_size: rows per batch.
        seed: of all sampling and shuffling.
        """
        self._sources, self._seed = sources, seed
        self._schedule = _Schedule([source.weight for source in sources], seed)
        self._rows: list[_Rows] = [
            (_RepackedRows if source.repack else _PackedRows)(source, (seed, EPOCH_STREAM, number))
            for number, source in enumerate(sources)
        ]
        self._lock = threading.Lock()
        self.batch_size = batch_size
        self.specs = tuple(source.shape.spec(batch_size) for source in sources)
        self.steps = None

    def task(self, step: int) -> int:
        """Return the index of this step's task."""
        with self._lock:
            return self._schedule[step][0]

    def read(self, step: int, rows: Sequence[int]) -> Arrays:
        """Return some rows of a step's arrays (see `packing.lay_out`)."""
        with self._lock:
            task, before = self._schedule[step]
            first = before * self.batch_size
            numbers = [self._rows[task][first + row] for row in rows]
        source = self._sources[task]
        return lay_out(source.examples, numbers, source.shape)

    def epoch_steps(self) -> float:
        """Steps per epoch over all tasks together."""
        return sum(rows.per_epoch for rows in self._rows) / self.batch_size


class _Schedule:
    """Maps a step to its task and to the number of that task's earlier steps."""

    def __init__(self, weights: Sequence[float], seed: int):
        self._bounds, self._seed = np.cumsum(weights) / np.sum(weights), seed
        self._before = [np.zeros(len(weights), np.int64)]  # steps of each task before each block
        self._last: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __getitem__(self, step: int) -> tuple[int, int]:
        if len(self._bounds) == 1:
            return 0, step
        number, index = divmod(step, BLOCK)
        while len(self._before) <= number:
            counts = np.bincount(self._block(len(self._before) - 1), minlength=len(self._bounds))
            self._before.append(self._before[-1] + counts)
        tasks = self._block(number)
        task = int(tasks[index])
        return task, int(self._before[number][task] + np.sum(tasks[:index] == task))

    def _block(self, number: int) -> np.ndarray:
        """Return the tasks of the steps from number * BLOCK on, int [BLOCK]."""
        if self._last[0] != number:
            bits = np.random.PCG64(np.random.SeedSequence((self._seed, STEP_STREAM)))
            drawn = np.random.Generator(bits.advance(number * BLOCK)).random(BLOCK)
            tasks = np.searchsorted(self._bounds, drawn, side="right")
            self._last = (number, np.minimum(tasks, len(self._bounds) - 1))
        return self._last[1]


class _Rows(Protocol):
    """A task's endless stream of rows, each a list of example indices."""

    @property
    def per_epoch(self) -> int:
        """Rows of the first epoch."""

    def __getitem__(self, row: int) -> list[int]: ...


class _PackedRows:
    """Rows packed once. Later epochs swap examples of equal size at random and shuffle the rows, so
    all epochs have the same number of rows."""

    def __init__(self, source: Source, key: tuple[int, ...]):
        self._key, self._count = key, len(source.examples)
        first = _packed(source, key, 0)
        self.per_epoch = len(first)
        self._cuts = np.cumsum([len(row) for row in first])[:-1]
        self._order = np.concatenate([np.asarray(row, np.int64) for row in first])
        classes: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, number in enumerate(self._order):
            example = source.examples[number]
            classes[example.length, example.source_length].append(index)
        self._classes = [np.array(indices) for indices in classes.values() if len(indices) > 1]
        self._epoch = (0, first)

    def __getitem__(self, row: int) -> list[int]:
        epoch, index = divmod(row, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][index]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        if epoch == 0:
            return [row.tolist() for row in np.split(self._order, self._cuts)]
        generator, order = np.random.default_rng((*self._key, epoch)), self._order.copy()
        for indices in self._classes:
            order[indices] = order[generator.permutation(indices)]
        rows = np.split(order, self._cuts)
        return [rows[index].tolist() for index in generator.permutation(len(rows))]


class _RepackedRows:
    """Rows packed again in every epoch: a row depends on all epochs before it."""

    def __init__(self, source: Source, key: tuple[int, ...]):
        self._source, self._key = source, key
        self._rows, self._epochs = _packed(source, key, 0), 1
        self.per_epoch = len(self._rows)

    def __getitem__(self, row: int) -> list[int]:
        while len(self._rows) <= row:
            self._rows += _packed(self._source, self._key, self._epochs)
            self._epochs += 1
        return self._rows[row]


def _packed(source: Source, key: tuple[int, ...], epoch: int) -> list[list[int]]:
    """Pack the examples of an epoch in random order, and shuffle the rows."""
    generator = np.random.default_rng((*key, epoch))
    order = generator.permutation(len(source.examples)).tolist()
    rows = pack(source.examples, order, source.shape)
    return [rows[index] for index in generator.permutation(len(rows))]
