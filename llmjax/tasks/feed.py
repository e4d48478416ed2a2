"""Batches of several tasks: which task has a step, and which examples are in its rows."""

import threading
from collections.abc import Sequence

import numpy as np

from llmjax.data.batch import Arrays
from llmjax.tasks.example import Example
from llmjax.tasks.packing import Shape, lay_out, pack

# Tell what is drawn for a step from what is drawn for an epoch of a task.
STEP, EPOCH = 0x537465, 0x45706F


class TaskFeed:
    """The batches of a run (a `data.loader.Feed`): each step has one task, drawn by weight, and
    the next rows of that task's endless stream. A function of examples, seed and step alone."""

    def __init__(
        self,
        examples: Sequence[Sequence[Example]],
        shapes: Sequence[Shape],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
    ):
        """Args:
        examples: of each task.
        shapes: of each task's rows.
        weights: of each task.
        batch_size: rows in a batch.
        seed: of all order.
        """
        self._examples, self._shapes, self._seed = examples, shapes, seed
        self._shares = np.cumsum(weights) / np.sum(weights)
        self._drawn = np.random.default_rng((seed, STEP))
        self._tasks: list[int] = []
        self._before: list[int] = []
        self._counts = [0] * len(examples)
        self._rows: list[list[list[int]]] = [[] for _ in examples]
        self._epochs = [0] * len(examples)
        self._lock = threading.Lock()
        self.batch_size = batch_size
        self.specs = tuple(shape.spec(batch_size) for shape in shapes)
        self.steps = None

    def task(self, step: int) -> int:
        """The number of the task that has this step."""
        with self._lock:
            return self._place(step)[0]

    def read(self, step: int, rows: Sequence[int]) -> Arrays:
        """Some rows of a step's arrays (see `packing.lay_out`)."""
        with self._lock:
            task, before = self._place(step)
            first = before * self.batch_size
            stream = self._stream(task, first + self.batch_size)
            chosen = [stream[first + row] for row in rows]
        return lay_out(self._examples[task], chosen, self._shapes[task])

    def rows_of_an_epoch(self, task: int) -> int:
        """Rows in a task's first pass through its examples."""
        return len(self._packed(task, 0))

    def epoch_steps(self) -> float:
        """Steps in which all tasks' examples together come once."""
        rows = sum(self.rows_of_an_epoch(task) for task in range(len(self._examples)))
        return rows / self.batch_size

    def _place(self, step: int) -> tuple[int, int]:
        """The task of a step, and how many steps it had before."""
        while len(self._tasks) <= step:
            task = int(np.searchsorted(self._shares, self._drawn.random(), side="right"))
            task = min(task, len(self._shares) - 1)
            self._tasks.append(task)
            self._before.append(self._counts[task])
            self._counts[task] += 1
        return self._tasks[step], self._before[step]

    def _stream(self, task: int, rows: int) -> list[list[int]]:
        """The task's rows, at least so many."""
        while len(self._rows[task]) < rows:
            self._rows[task] += self._packed(task, self._epochs[task])
            self._epochs[task] += 1
        return self._rows[task]

    def _packed(self, task: int, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng((self._seed, EPOCH, task, epoch))
        examples, shape = self._examples[task], self._shapes[task]
        rows = pack(examples, generator.permutation(len(examples)).tolist(), shape)
        return [rows[place] for place in generator.permutation(len(rows))]
