"""BERT's objective: some tokens are hidden, and predicted from those around them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import MASK, Objective, PartConfig
from llmjax.data.objectives.vocabulary import Vocabulary, as_read, missing_token, words_of
from llmjax.data.objectives.windows import Keys, Windows, row_spec


@dataclass(frozen=True)
class MaskedConfig(PartConfig):
    """Hidden tokens from all around them (BERT, arXiv:1810.04805). For encoders."""

    share: float = 0.15
    """Share of a row's tokens of text that are to be predicted."""
    masked: float = 0.8
    """Share of those that the model sees as the mask token."""
    random: float = 0.1
    """Share of those that it sees as any other token; the rest stays as it is."""
    whole_words: bool = False
    """Whether all tokens of a word are chosen together, or none (words longer than a row's share:
    none). A CJK character is a word."""
    kind: Literal["masked"] = "masked"

    models: ClassVar = ("encoder",)

    @property
    def control_pieces(self) -> tuple[str, ...]:
        return (MASK,)

    def value_problems(self) -> Iterator[str]:
        yield from super().value_problems()
        if not 0 < self.share < 1:
            yield f".share: {self.share} is not between 0 and 1"
        if min(self.masked, self.random) < 0 or not self.masked + self.random <= 1 + 1e-9:
            yield f".masked: {self.masked} and random {self.random} must be shares of one whole"

    def build(self, vocabulary: Vocabulary, encodes: bool) -> Objective:
        if vocabulary.mask is None:
            raise missing_token("mask token", MASK)
        return Masked(self, vocabulary)


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
        for number in generator.permutation(len(sizes)):
            if left == 0:
                break
            if sizes[number] <= left:
                chosen[number] = True
                left -= int(sizes[number])
        return free[chosen[word]]
