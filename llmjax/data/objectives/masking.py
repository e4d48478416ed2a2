"""Masked rows: some tokens are hidden, and are to be told from those around them."""

from dataclasses import dataclass

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import MaskedConfig
from llmjax.data.objectives.packing import Keys, Windows, row_spec
from llmjax.data.objectives.vocabulary import Vocabulary, as_read, words_of


@dataclass(frozen=True, eq=False)
class Masked:
    """BERT's objective (arXiv:1810.04805, section 3.1); see MaskedConfig."""

    config: MaskedConfig
    vocabulary: Vocabulary

    def spec(self, rows: int, length: int) -> BatchSpec:
        """See Objective."""
        return row_spec(rows, length, self.vocabulary.pad)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """As Causal.batch; targets are the tokens themselves, and the hidden ones have weight 1."""
        vocabulary = self.vocabulary
        targets = as_read(windows, vocabulary)
        free = vocabulary.text[targets] & (windows.segments > 0)
        words = words_of(targets, windows.segments, vocabulary)
        assert vocabulary.mask is not None
        inputs, weights = targets.copy(), np.zeros(targets.shape, np.float32)
        ordinary = np.flatnonzero(vocabulary.text)
        for row, key in enumerate(keys):
            generator = np.random.default_rng(key)
            places = self._places(generator, np.flatnonzero(free[row]), words[row])
            seen = generator.random(len(places))
            others = generator.choice(ordinary, len(places))
            masked, random = self.config.masked, self.config.masked + self.config.random
            shown = np.where(seen < random, others, inputs[row, places])
            inputs[row, places] = np.where(seen < masked, vocabulary.mask, shown)
            weights[row, places] = 1.0
        return {
            "inputs": inputs,
            "targets": targets,
            "weights": weights,
            "segments": windows.segments,
            "positions": windows.positions,
        }

    def _places(
        self, generator: np.random.Generator, free: np.ndarray, words: np.ndarray
    ) -> np.ndarray:
        """Which of the `free` places of a row are hidden: their share, at least one where any."""
        left = max(1, round(self.config.share * len(free))) if len(free) else 0
        if not self.config.whole_words:
            return generator.choice(free, left, replace=False)
        _, word, sizes = np.unique(words[free], return_inverse=True, return_counts=True)
        chosen = np.zeros(len(sizes), bool)
        for one in generator.permutation(len(sizes)):
            if left == 0:
                break
            if sizes[one] <= left:
                chosen[one] = True
                left -= int(sizes[one])
        return free[chosen[word]]
