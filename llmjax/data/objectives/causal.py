"""Causal language modelling, also with a prefix of each document given."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import Objective, PartConfig
from llmjax.data.objectives.vocabulary import Vocabulary
from llmjax.data.objectives.windows import Keys, Windows, row_spec, split_points


@dataclass(frozen=True)
class CausalConfig(PartConfig):
    """Every token from those before it in its document. For decoders."""

    kind: Literal["causal"] = "causal"

    is_causal: ClassVar = True

    def build(self, vocabulary: Vocabulary, encodes: bool) -> Objective:
        return Causal(vocabulary.bos, vocabulary.pad)


@dataclass(frozen=True)
class Causal:
    """Predicts every token from those before it in its document; the first one from BOS."""

    bos_id: int
    pad_id: int

    def spec(self, rows: int, length: int) -> BatchSpec:
        return row_spec(rows, length, self.pad_id)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """inputs, targets, segments, positions int32 [R, L]; weights float32 [R, L], 0 or 1."""
        real = windows.segments > 0
        inputs = np.where(windows.first, self.bos_id, windows.previous)
        return {
            "inputs": np.where(real, inputs, self.pad_id).astype(np.int32),
            "targets": np.where(real, windows.tokens, self.pad_id).astype(np.int32),
            "weights": real.astype(np.float32),
            "segments": windows.segments,
            "positions": windows.positions,
        }


@dataclass(frozen=True)
class Prefix:
    """Causal, with weight only after a random split point of each document of a row."""

    causal: Causal

    def spec(self, rows: int, length: int) -> BatchSpec:
        return self.causal.spec(rows, length)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        arrays = self.causal.batch(windows, keys)
        for row, key in enumerate(keys):
            splits = split_points(windows.segments[row], key)[windows.segments[row]]
            arrays["weights"][row, (splits == 0) | (windows.positions[row] < splits)] = 0.0
        return arrays
