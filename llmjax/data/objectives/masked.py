"""Masked language modelling: hidden tokens are predicted from those around them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import MASK, Objective, PartConfig
from llmjax.data.objectives.vocabulary import Vocabulary, encoder_input, missing_token, word_numbers
from llmjax.data.objectives.windows import Keys, Windows, row_spec


@dataclass(frozen=True)
class MaskedConfig(PartConfig):
    """Hidden tokens from all around them (BERT, arXiv:1810.04805). For encoders."""

    share: float = 0.15
    """Share of a row's text tokens that are predicted."""
    masked: float = 0.8
    """Share of those that are replaced by the mask token."""
    random: float = 0.1
    """Share of those that are replaced by a random token; the rest are left unchanged."""
    whole_words: bool = False
    """Whether the tokens of a word are hidden all together or not at all (words longer than a row's
    share: not at all). A CJK character is a word."""
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
            sizes = f"{self.masked} and random {self.random}"
            yield f".masked: {sizes} must be shares that add up to at most 1"

    def build(self, vocabulary: Vocabulary, is_encoder_decoder: bool) -> Objective:
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
        """As Causal.batch; targets are the tokens themselves, and hidden ones have weight 1."""
        vocabulary = self.vocabulary
        targets = encoder_input(windows, vocabulary)
        is_text = vocabulary.text[targets] & (windows.segments > 0)
        words = word_numbers(targets, windows.segments, vocabulary)
        assert vocabulary.mask is not None
        inputs, weights = targets.copy(), np.zeros(targets.shape, np.float32)
        text_ids = np.flatnonzero(vocabulary.text)
        for row, key in enumerate(keys):
            generator = np.random.default_rng(key)
            hidden = self._hidden_columns(generator, np.flatnonzero(is_text[row]), words[row])
            uniform = generator.random(len(hidden))
            random_ids = generator.choice(text_ids, len(hidden))
            masked, random = self.config.masked, self.config.masked + self.config.random
            unmasked = np.where(uniform < random, random_ids, inputs[row, hidden])
            inputs[row, hidden] = np.where(uniform < masked, vocabulary.mask, unmasked)
            weights[row, hidden] = 1.0
        return {
            "inputs": inputs,
            "targets": targets,
            "weights": weights,
            "segments": windows.segments,
            "positions": windows.positions,
        }

    def _hidden_columns(
        self, generator: np.random.Generator, columns: np.ndarray, words: np.ndarray
    ) -> np.ndarray:
        """Chooses the columns to hide among those of text: the configured share, at least one."""
        left = max(1, round(self.config.share * len(columns))) if len(columns) else 0
        if not self.config.whole_words:
            return generator.choice(columns, left, replace=False)
        _, word, sizes = np.unique(words[columns], return_inverse=True, return_counts=True)
        chosen = np.zeros(len(sizes), bool)
        for number in generator.permutation(len(sizes)):
            if left == 0:
                break
            if sizes[number] <= left:
                chosen[number] = True
                left -= int(sizes[number])
        return columns[chosen[word]]
