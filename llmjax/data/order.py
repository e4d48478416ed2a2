"""Row order: a pure function of the seed and the row number.

Row r of the endless stream of rows is one window of one epoch of one source. Each source has an
endless stream of windows for each length of rows, which Grain shuffles epoch by epoch, with random
access. A stage of the run reads these streams in proportion to its weights, each from where the
earlier stages of the same length have left it. So within a stream no token comes twice in an epoch,
whatever the stages; streams of different lengths know nothing of each other.
"""

import functools
import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.interleave import Interleaving
from llmjax.data.stages import Stage
from llmjax.data.text.corpus import Corpus

# Separates the random numbers of rows from those of a source's epochs.
ROW_STREAM = 0x526F77


@dataclass(frozen=True)
class RowSpan:
    """The tokens of a row."""

    source: int
    """Index of the source."""
    start: int
    """Offset into the source's stream of tokens, which wraps around."""
    size: int
    """Number of tokens: the row length, but for one row per epoch."""


@dataclass(frozen=True)
class StageRows:
    """The rows of a stage."""

    stage: Stage
    first_row: int
    """In the endless stream of rows."""
    read: tuple[int, ...]
    """Rows of this length that earlier stages have read of each of the stage's sources."""
    mixture: Interleaving

    def row(self, step: int) -> int:
        """The first row of a step."""
        return self.first_row + (step - self.stage.first_step) * self.stage.batch_size


def lay_out_stages(stages: Sequence[Stage]) -> tuple[StageRows, ...]:
    """The rows of each stage; the cost depends on the numbers of stages and sources alone."""
    laid: list[StageRows] = []
    used: dict[tuple[int, int], int] = {}
    for stage in stages:
        if laid:
            last = laid[-1]
            rows = last.row(stage.first_step) - last.first_row
            counts = last.mixture.counts(rows)
            for source, count in zip(last.stage.sources, counts, strict=True):
                stream = (source, last.stage.length)
                used[stream] = used.get(stream, 0) + count
        first = laid[-1].row(stage.first_step) if laid else 0
        read = tuple(used.get((source, stage.length), 0) for source in stage.sources)
        laid.append(StageRows(stage, first, read, Interleaving(stage.weights)))
    return tuple(laid)


class RowOrder:
    """Row number -> RowSpan.

    Each epoch cuts a source's ring of N tokens at a random offset, and from there into
    ceil(N / length) windows: every token occurs exactly once, and each epoch splits documents at
    other positions.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int):
        self._tokens = [store.num_tokens for store in corpus.train]
        self._length, self._seed = config.length, seed
        self.stages = lay_out_stages(config.all_stages())
        self.rows = [rows_of(tokens, config.length) for tokens in self._tokens]
        """Rows of data.length per epoch of each source."""
        self._first_steps = [rows.stage.first_step for rows in self.stages]
        self._first_rows = [rows.first_row for rows in self.stages]
        self._shuffled = {
            (source, rows.stage.length): self._shuffle(source, rows.stage.length)
            for rows in self.stages
            for source in rows.stage.sources
        }
        self._offset = functools.lru_cache(maxsize=64)(self._random_offset)

    def __getitem__(self, row: int) -> RowSpan:
        rows = self.stages[bisect_right(self._first_rows, row) - 1]
        index, number = rows.mixture[row - rows.first_row]
        source, length = rows.stage.sources[index], rows.stage.length
        number += rows.read[index]
        tokens, windows = self._tokens[source], self._shuffled[source, length]
        begin = windows[number] * length
        epoch = number // rows_of(tokens, length)
        start = (self._offset(source, epoch, length) + begin) % tokens
        return RowSpan(source, start, min(length, tokens - begin))

    def stage(self, step: int) -> StageRows:
        """The stage of a step."""
        return self.stages[bisect_right(self._first_steps, step) - 1]

    def key(self, row: int) -> tuple[int, int, int]:
        """The seed of an objective's random numbers for a row."""
        return self._seed, ROW_STREAM, row

    def _shuffle(self, source: int, length: int) -> Any:
        """A MapDataset of the window at each row of a source's endless stream."""
        import grain

        # Grain's seeds have 32 bits
        key = np.random.SeedSequence(self._stream_key(source, length=length))
        seed = int(key.generate_state(1)[0])
        windows = grain.MapDataset.range(rows_of(self._tokens[source], length))
        return windows.seed(seed).shuffle().repeat()

    def _random_offset(self, source: int, epoch: int, length: int) -> int:
        generator = np.random.default_rng(self._stream_key(source, epoch, length=length))
        return int(generator.integers(self._tokens[source]))

    def _stream_key(self, *numbers: int, length: int) -> tuple[int, ...]:
        """Entropy for a stream; the length is part of it if it is not data.length."""
        return (self._seed, *numbers, *(() if length == self._length else (length,)))


def rows_of(tokens: int, length: int) -> int:
    """Rows per epoch of a source."""
    return -(-tokens // length)


def rows_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Rows until the first source completes an epoch; with stages, if the first one lasted."""
    return _rows_per_epoch(corpus, config.all_stages()[0])


def steps_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Complete batches until the first source completes an epoch; with stages, if the first one
    lasted."""
    return _steps_per_epoch(corpus, config.all_stages()[0])


def epochs_before(corpus: Corpus, stages: Sequence[Stage], step: int) -> float:
    """Epochs until a step, each stage's steps counted in epochs of its own."""
    ends = [*(stage.first_step for stage in stages[1:]), step]
    return sum(
        max(0, min(end, step) - stage.first_step) / max(_steps_per_epoch(corpus, stage), 1e-9)
        for stage, end in zip(stages, ends, strict=True)
    )


def steps_until_exhausted(corpus: Corpus, config: DataConfig) -> int:
    """Complete batches until the first source completes an epoch, over all stages."""
    stages = lay_out_stages(config.all_stages())
    for rows, later in itertools.zip_longest(stages, stages[1:]):
        stage = rows.stage
        left = [
            rows_of(corpus.train[source].num_tokens, stage.length) - read
            for source, read in zip(stage.sources, rows.read, strict=True)
        ]
        end = stage.first_step + rows.mixture.rows_within(left) // stage.batch_size
        if later is None or end < later.stage.first_step:
            return end
    raise AssertionError("there is at least one stage")


def _rows_per_epoch(corpus: Corpus, stage: Stage) -> int:
    rows = [rows_of(corpus.train[source].num_tokens, stage.length) for source in stage.sources]
    return Interleaving(stage.weights).rows_within(rows)


def _steps_per_epoch(corpus: Corpus, stage: Stage) -> int:
    return _rows_per_epoch(corpus, stage) // stage.batch_size
