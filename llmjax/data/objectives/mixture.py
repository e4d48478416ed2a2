"""A mixture of objectives, sampled row by row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import MASK, PARTS, Objective, ObjectiveConfig, PartConfig
from llmjax.data.objectives.pairs import PrefixConfig, SpanConfig
from llmjax.data.objectives.vocabulary import Vocabulary
from llmjax.data.objectives.windows import Keys, Windows


@dataclass(frozen=True)
class MixtureConfig(ObjectiveConfig):
    """An objective for each row of the global batch, sampled by weight."""

    parts: tuple[Annotated[PartConfig, PARTS], ...] = field(
        default_factory=lambda: (SpanConfig(), PrefixConfig())
    )
    """The objectives; each must suit the model."""
    kind: Literal["mixture"] = "mixture"

    @property
    def control_pieces(self) -> tuple[str, ...]:
        pieces = dict.fromkeys(piece for part in self.parts for piece in part.control_pieces)
        return tuple(sorted(pieces, key=lambda piece: piece != MASK))

    def problems(self, encoder: int, decoder: int) -> Iterator[str]:
        if not self.parts:
            yield "objective.parts: give at least one"
        for number, part in enumerate(self.parts):
            yield from part.problems(encoder, decoder, f"objective.parts.{number}")

    def build(self, vocabulary: Vocabulary, is_encoder_decoder: bool) -> Objective:
        parts = [part.build(vocabulary, is_encoder_decoder) for part in self.parts]
        return Mixture(parts, [part.weight for part in self.parts])


@dataclass(frozen=True, eq=False)
class Mixture:
    """One of several objectives for each row, sampled by weight."""

    parts: Sequence[Objective]
    weights: Sequence[float]

    def spec(self, rows: int, length: int) -> BatchSpec:
        specs = [part.spec(rows, length) for part in self.parts]
        return {
            name: max((spec[name] for spec in specs), key=lambda array: array.shape)
            for name in specs[0]
        }

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        chosen = self.choose(keys)
        spec = self.spec(len(keys), windows.tokens.shape[1])
        batch = {name: array.blank(len(keys)) for name, array in spec.items()}
        for number, part in enumerate(self.parts):
            rows = np.flatnonzero(chosen == number)
            if not len(rows):
                continue
            arrays = part.batch(windows.take(rows), [keys[row] for row in rows.tolist()])
            for name, values in arrays.items():
                batch[name][rows, : values.shape[1]] = values
        return batch

    def choose(self, keys: Keys) -> np.ndarray:
        """The index of each row's objective."""
        ends = np.cumsum(self.weights) / np.sum(self.weights)
        samples = [np.random.default_rng((*key, 1)).random() for key in keys]
        return np.minimum(np.searchsorted(ends, samples, side="right"), len(ends) - 1)
