"""Windows of small random documents, and a synthetic vocabulary."""

import numpy as np

from llmjax.data.objectives.vocabulary import Vocabulary
from llmjax.data.objectives.windows import Windows, read_windows
from llmjax.data.text.store import TokenStore

PAD, BOS, EOS, MASK = 0, 1, 2, 3
SENTINELS = range(4, 12)
FIRST, LAST = 12, 512
"""Text tokens: FIRST to LAST - 1."""


def vocabulary(
    starts_with_bos: bool = True, sentinels: int = len(SENTINELS), opening: int = 3
) -> Vocabulary:
    """A vocabulary in which every `opening`-th text token begins a word."""
    ids = np.arange(LAST)
    text = ids >= FIRST
    opens = ~text | (ids % opening == 0)
    marks = np.array(SENTINELS[:sentinels], np.int32)
    return Vocabulary(BOS, EOS, PAD, MASK, marks, starts_with_bos, text, opens, ~text)


def cut(sizes: list[int], rows: int, length: int, seed: int = 0) -> Windows:
    """Consecutive rows of documents with `sizes` random tokens and EOS; the last one ends in
    padding."""
    generator = np.random.default_rng(seed)
    documents = [[*generator.integers(FIRST, LAST, size).tolist(), EOS] for size in sizes]
    offsets = np.cumsum([0, *map(len, documents)])
    tokens = np.concatenate(documents).astype(np.uint16)
    zeros = np.zeros(len(offsets), np.int64)
    store = TokenStore(tokens, offsets, zeros, zeros[1:].view(np.uint64))
    real = np.full(rows, length)
    real[-1] = max(1, length // 2)
    return read_windows(store, np.arange(rows) * length, real, length)


def keys(rows: int, seed: int = 0) -> list[tuple[int, ...]]:
    return [(seed, row) for row in range(rows)]
