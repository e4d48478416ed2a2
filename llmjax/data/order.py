"""In which order rows come: a pure function of the seed and the row's number.

Row r of the endless stream of rows belongs to a source, to an epoch of that source, and is one of
that epoch's windows. Grain shuffles each epoch and mixes the sources, with random access.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmjax.data.config import DataConfig
from llmjax.data.text.corpus import Corpus

# Tells what is drawn for a row from what is drawn for an epoch of a source.
ROW = 0x526F77


@dataclass(frozen=True)
class Row:
    """Where a row comes from."""

    source: int
    start: int
    """The place in the source's stream, which is a ring."""
    size: int
    """Real tokens: all but in one row per epoch."""


class RowOrder:
    """Row number -> Row.

    In each epoch the ring of a source's N tokens is cut at a random place, and then into
    ceil(N / length) windows, so every token comes exactly once, and documents are cut elsewhere in
    every epoch.
    """

    def __init__(self, corpus: Corpus, config: DataConfig, seed: int):
        self._tokens = [store.num_tokens for store in corpus.train]
        self._length, self._seed = config.length, seed
        self.rows = [-(-tokens // config.length) for tokens in self._tokens]
        weights = [source.weight for source in config.sources]
        self._order = _mixture(self.rows, weights, seed, endless=True)
        self._cut = functools.lru_cache(maxsize=64)(self._new_cut)

    def __getitem__(self, row: int) -> Row:
        source, epoch, window = self._order[row]
        tokens, begin = self._tokens[source], window * self._length
        start = (self._cut(source, epoch) + begin) % tokens
        return Row(source, start, min(self._length, tokens - begin))

    def key(self, row: int) -> tuple[int, int, int]:
        """The numbers that seed what an objective draws for a row."""
        return self._seed, ROW, row

    def _new_cut(self, source: int, epoch: int) -> int:
        generator = np.random.default_rng((self._seed, source, epoch))
        return int(generator.integers(self._tokens[source]))


def _mixture(rows: Sequence[int], weights: Sequence[float], seed: int, endless: bool) -> Any:
    """A MapDataset of (source, epoch, window)."""
    import grain

    parts = []
    for source, count in enumerate(rows):
        # Grain's seeds have 32 bits
        own = int(np.random.SeedSequence((seed, source)).generate_state(1)[0])
        part = grain.MapDataset.range(count).seed(own).shuffle()
        part = part.repeat() if endless else part
        parts.append(part.map_with_index(functools.partial(_place, source, count)))
    return parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights)


def _place(source: int, count: int, index: int, window: int) -> tuple[int, int, int]:
    return source, index // count, window


def rows_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Rows until the first source has been through once."""
    rows = [-(-store.num_tokens // config.length) for store in corpus.train]
    return len(_mixture(rows, [source.weight for source in config.sources], 0, endless=False))


def steps_per_epoch(corpus: Corpus, config: DataConfig) -> int:
    """Whole batches until the first source has been through once."""
    return rows_per_epoch(corpus, config) // config.batch_size
