"""Global batches: row selection, contents and device arrays, prefetched."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh, NamedSharding

from llmjax.data.batch import Arrays, Batch, BatchSpec, check_batch, place_batch
from llmjax.data.config import DataConfig, check_data
from llmjax.data.objectives.causal import Causal
from llmjax.data.objectives.config import Objective
from llmjax.data.objectives.windows import Windows, read_windows
from llmjax.data.order import RowOrder, steps_until_exhausted
from llmjax.data.text.corpus import Corpus
from llmjax.data.text.sharded import TokenStream
from llmjax.errors import UserError
from llmjax.parallel.mesh import named_sharding

SOURCES_AT_ONCE = 16
"""Sources of a batch that are read at the same time, where they are in a bucket."""


def batch_at(
    corpus: Corpus, config: DataConfig, seed: int, step: int, objective: Objective | None = None
) -> Arrays:
    """The global batch of a step: the next B rows of the endless stream of rows.

    Returns:
      The objective's arrays; for None, the causal objective: inputs, targets, segments, positions
      int32 [B, L] and weights float32 [B, L].
    """
    order = RowOrder(corpus, config, seed)
    rows = range(order.stage(step).stage.batch_size)
    return read_rows(corpus, order, step, rows, objective)


def read_rows(
    corpus: Corpus,
    order: RowOrder,
    step: int,
    rows: Sequence[int],
    objective: Objective | None = None,
) -> Arrays:
    """The given rows of a step's global batch; nothing else is read."""
    objective = objective or Causal(corpus.bos_id, corpus.pad_id)
    stage_rows = order.stage(step)
    first, length = stage_rows.row(step), stage_rows.stage.length
    numbers = [first + row for row in rows]
    spans = [order[number] for number in numbers]
    sources = np.array([span.source for span in spans])
    starts = np.array([span.start for span in spans], np.int64)
    sizes = np.array([span.size for span in spans], np.int64)
    chosen = [np.flatnonzero(sources == source) for source in np.unique(sources)]

    def stream(selected: np.ndarray) -> TokenStream:
        return corpus.train[sources[selected[0]]]

    def read(selected: np.ndarray) -> Windows:
        return read_windows(stream(selected), starts[selected], sizes[selected], length)

    each: Iterator[Windows] = map(read, chosen)
    if len(chosen) > 1 and any(stream(selected).is_remote for selected in chosen):
        each = _at_once(read, chosen)
    batch: Arrays = {}
    for selected, windows in zip(chosen, each, strict=True):
        keys = [order.key(numbers[row]) for row in selected]
        for name, values in objective.batch(windows, keys).items():
            if name not in batch:
                batch[name] = np.zeros((len(rows), *values.shape[1:]), values.dtype)
            batch[name][selected] = values
    return batch


def _at_once(
    read: Callable[[np.ndarray], Windows], chosen: Sequence[np.ndarray]
) -> Iterator[Windows]:
    """The rows of each source, which would wait for each other's answers otherwise."""
    with ThreadPoolExecutor(min(len(chosen), SOURCES_AT_ONCE)) as pool:
        yield from pool.map(read, chosen)


class Feed(Protocol):
    """The rows of global batches, as a pure function of step and row."""

    @property
    def specs(self) -> Sequence[BatchSpec]:
        """The spec of each kind of batch."""

    @property
    def steps(self) -> int | None:
        """Number of steps until the feed is exhausted; None: it never is."""

    def task(self, step: int) -> int:
        """Index into `specs` of a step's batch."""

    def read(self, step: int, rows: Sequence[int]) -> Arrays:
        """The given rows of a step's batch.

        Raises:
          UserError: the feed is exhausted, and that is an error.
        """


def batch_shapes(config: DataConfig) -> tuple[tuple[int, int], ...]:
    """The shapes (rows, tokens per row) of a run's batches, each once."""
    return tuple(dict.fromkeys(stage.shape for stage in config.all_stages()))


class CorpusFeed:
    """Packed windows of a corpus, turned into batches by an objective."""

    def __init__(
        self, corpus: Corpus, config: DataConfig, seed: int, objective: Objective | None = None
    ):
        """Args:
        corpus: from `prepare`.
        config: the config it was prepared with.
        seed: of the row order.
        objective: what is predicted; None: every token from those before it.
        """
        check_data(config)
        self._corpus = corpus
        self._objective = objective or Causal(corpus.bos_id, corpus.pad_id)
        self._order = RowOrder(corpus, config, seed)
        self._shapes = batch_shapes(config)
        self.specs = tuple(self._objective.spec(*shape) for shape in self._shapes)
        endless = config.on_exhaustion == "repeat"
        self.steps = None if endless else steps_until_exhausted(corpus, config)

    def task(self, step: int) -> int:
        """See Feed."""
        return self._shapes.index(self._order.stage(step).stage.shape)

    def read(self, step: int, rows: Sequence[int]) -> Arrays:
        """See Feed."""
        if self.steps is not None and step >= self.steps:
            raise UserError(
                "data",
                f"the corpus is exhausted after {self.steps} steps",
                'lower steps, add text, or set data.on_exhaustion to "repeat"',
            )
        return read_rows(self._corpus, self._order, step, rows, self._objective)


class Loader:
    """Iterates over (step, batch), prefetching in threads.

    A batch depends only on the feed and the step: not on the mesh, the number of processes, or
    the first step. Each process reads only the rows that its devices hold.

    Use as a context manager, which ends the threads.
    """

    def __init__(
        self,
        feed: Feed,
        mesh: Mesh | None = None,
        start_step: int = 0,
        *,
        prefetch: int = 4,
        threads: int = 2,
        stops: bool = True,
    ):
        """Args:
          feed: source of the batches.
          mesh: over which the global arrays are sharded; None: the default device.
          start_step: the first step to yield.
          prefetch: batches prepared ahead of the one yielded next.
          threads: batches prepared at the same time.
          stops: whether iteration ends with the feed; otherwise reading past its end is an error.

        Raises:
          UserError: the batch does not divide over the mesh.
        """
        self.feed, self._mesh, self._stops = feed, mesh, stops
        sizes = [next(iter(spec.values())).shape[0] for spec in feed.specs]
        self._rows: list[Sequence[int]] = [range(size) for size in sizes]
        if mesh is not None:
            check_batch("the batch", feed.specs, mesh)
            self._rows = [local_rows(named_sharding(mesh, "batch"), size) for size in sizes]
        self._step, self._ahead, self._threads = start_step, prefetch, threads
        self._batches = self._prefetch(start_step)
        self.wait_seconds = 0.0
        """Total time that `next` has waited for batches."""

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        return self

    def __next__(self) -> tuple[int, Batch]:
        if self.feed.steps is not None and self._step >= self.feed.steps:
            if not self._stops:
                self.feed.read(self._step, ())
            raise StopIteration
        start = time.perf_counter()
        batch = next(self._batches)
        self.wait_seconds += time.perf_counter() - start
        self._step += 1
        return self._step - 1, batch

    def seek(self, step: int) -> None:
        """Continues with the batch of this step; what was prepared is dropped."""
        self._batches.close()
        self._step, self._batches = step, self._prefetch(step)

    def close(self) -> None:
        """Ends the threads."""
        self._batches.close()

    def _prefetch(self, first: int) -> Any:
        import grain

        end = 1 << 60 if self.feed.steps is None else self.feed.steps
        steps = grain.MapDataset.range(first, max(first + 1, end))
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._ahead)
        return iter(steps.map(self._make).to_iter_dataset(options))

    def _make(self, step: int) -> Batch:
        step = int(step)
        task = self.feed.task(step)
        arrays = self.feed.read(step, self._rows[task])
        return place_batch(arrays, self.feed.specs[task], self._mesh)


def local_rows(sharding: NamedSharding, rows: int) -> list[int]:
    """Rows of a global batch held by this process's devices, in order."""
    blocks = sharding.addressable_devices_indices_map((rows,)).values()
    return sorted({row for index in blocks if index for row in range(*index[0].indices(rows))})
