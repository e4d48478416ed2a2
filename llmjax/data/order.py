"""Row order: a pure function of the seed and the row number.

Row r of the endless stream of rows is one window of one epoch of one source. Grain shuffles each
epoch and mixes the sources, with random access.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmjax.data.config import DataConfig
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


class RowOrder:
    """Row number -> RowSpan.

    Each epoch cuts a source's ring of N tokens at a random offset, and from there into
    ceil(N / length) windows: every token occurs exactly once, and each epoch splits documents at
    other positions.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int):
        self._tokens = [store.num_tokens for store in corpus.train]
        self._length, self._seed = config.length, seed
        self.rows = [-(-tokens // config.length) for tokens in self._tokens]
        weights = [source.weight for source in config.sources]
        self._order = _mix_sources(self.rows, weights, seed, endless=True)
        self._offset = functools.lru_cache(maxsize=64)(self._random_offset)

    def __getitem__(self, row: int) -> RowSpan:
        source, epoch, window = self._order[row]
        tokens, begin = self._tokens[source], window * self._length
        start = (self._offset(source, epoch) + begin) % tokens
        return RowSpan(source, start, min(self._length, tokens - begin))

    def key(self, row: int) -> tuple[int, int, int]:
        """The seed of an objective's random numbers for a row."""
        return self._seed, ROW_STREAM, row

    def _random_offset(self, source: int, epoch: int) -> int:
        generator = np.random.default_rng((self._seed, source, epoch))
        return int(generator.integers(self._tokens[source]))


def _mix_sources(rows: Sequence[int], weights: Sequence[float], seed: int, endless: bool) -> Any:
    """A MapDataset of (source, epoch, window)."""
    import grain

    parts = []
    for source, count in enumerate(rows):
        # Grain's seeds have 32 bits
        source_seed = int(np.random.SeedSequence((seed, source)).generate_state(1)[0])
        part = grain.MapDataset.range(count).seed(source_seed).shuffle()
        part = part.repeat() if endless else part
        parts.append(part.map_with_index(functools.partial(_with_epoch, source, count)))
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)


def _with_epoch(source: int, count: int, index: int, window: int) -> tuple[int, int, int]:
    return source, index // count, window


def rows_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Rows until the first source completes an epoch."""
    rows = [-(-store.num_tokens // config.length) for store in corpus.train]
    return len(_mix_sources(rows, [source.weight for source in config.sources], 0, endless=False))


def steps_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Complete batches until the first source completes an epoch."""
    return rows_per_epoch(corpus, config) // config.batch_size
