"""What is to be predicted from what. An objective turns windows of the stream into a batch.

What it draws for a row hangs on the row's key alone: the seed and the row's number in the endless
stream of rows. So every epoch draws afresh, and every process and every restart draws the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.config import (
    CausalConfig,
    MaskedConfig,
    MixtureConfig,
    ObjectiveConfig,
    PartConfig,
    PrefixConfig,
    SpanConfig,
    control_pieces,
    parts_of,
)
from llmjax.data.objectives.masking import Masked
from llmjax.data.objectives.packing import Keys, Windows, row_spec
from llmjax.data.objectives.pairs import Continuation, Spans, cut_places
from llmjax.data.objectives.vocabulary import Vocabulary, vocabulary_of
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

__all__ = [
    "Causal",
    "Continuation",
    "Masked",
    "Mixture",
    "Objective",
    "Prefix",
    "Spans",
    "make_objective",
]


class Objective(Protocol):
    """A pure function from windows to batches."""

    def spec(self, rows: int, length: int) -> BatchSpec:
        """What a batch of so many windows of `length` tokens holds."""

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """inputs, targets, segments, positions int32 [R, L] and weights float32 [R, L]; for an
        encoder-decoder also encoder_tokens, encoder_segments, encoder_positions int32 [R, S]."""


@dataclass(frozen=True)
class Causal:
    """Every token from those before it in its document; a document's first from BOS."""

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
    """As Causal, with weight only behind a random place of each document of a row."""

    causal: Causal

    def spec(self, rows: int, length: int) -> BatchSpec:
        return self.causal.spec(rows, length)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        arrays = self.causal.batch(windows, keys)
        for row, key in enumerate(keys):
            cuts = cut_places(windows.segments[row], key)[windows.segments[row]]
            arrays["weights"][row, (cuts == 0) | (windows.positions[row] < cuts)] = 0.0
        return arrays


@dataclass(frozen=True, eq=False)
class Mixture:
    """For each row one of several objectives, drawn by its share."""

    parts: Sequence[Objective]
    shares: Sequence[float]

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
        """The number of the objective of each row."""
        ends = np.cumsum(self.shares) / np.sum(self.shares)
        drawn = [np.random.default_rng((*key, 1)).random() for key in keys]
        return np.minimum(np.searchsorted(ends, drawn, side="right"), len(ends) - 1)


def make_objective(config: ObjectiveConfig, tokenizer: Tokenizer, *, encodes: bool) -> Objective:
    """The objective of a config.

    Args:
      config: checked.
      tokenizer: of the text.
      encodes: whether the model is an encoder-decoder.

    Raises:
      UserError: the tokenizer lacks a mask token or sentinels.
    """
    vocabulary = vocabulary_of(tokenizer)
    parts = parts_of(config)
    made = [_make(part, vocabulary, encodes) for part in parts]
    if not isinstance(config, MixtureConfig):
        return made[0]
    return Mixture(made, [part.weight for part in parts])


def _make(config: PartConfig, vocabulary: Vocabulary, encodes: bool) -> Objective:
    causal = Causal(vocabulary.bos, vocabulary.pad)
    match config:
        case CausalConfig():
            return causal
        case MaskedConfig():
            if vocabulary.mask is None:
                raise _lacking("mask token", control_pieces(config)[0])
            return Masked(config, vocabulary)
        case SpanConfig():
            if len(vocabulary.sentinels) < config.sentinels:
                which = f"{config.sentinels} sentinels (it has {len(vocabulary.sentinels)})"
                raise _lacking(which, f"{control_pieces(config)[0]} and so on")
            return Spans(config, vocabulary)
        case PrefixConfig():
            return Continuation(vocabulary) if encodes else Prefix(causal)


def _lacking(what: str, spelt: str) -> UserError:
    return UserError(
        "this tokenizer",
        f"has no {what} for the run's objective",
        f"let train make one (--tokenizer sentencepiece), or take one with {spelt}",
    )
