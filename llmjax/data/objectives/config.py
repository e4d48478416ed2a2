"""Objectives: what is predicted from what. The base of their configs, and the registry.

An objective is a frozen dataclass of its settings, derived from `PartConfig`, whose `build` gives
what turns windows of the stream of text into batches. A new one is a file with such a class and a
line here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.registry import Registry

if TYPE_CHECKING:
    from llmjax.data.objectives.vocabulary import Vocabulary
    from llmjax.data.objectives.windows import Keys, Windows

MASK = "<mask>"
"""The piece that a tokenizer trained here gets for masks."""


def sentinel(number: int) -> str:
    """The piece that stands for span `number` of a document, as T5 writes it."""
    return f"<extra_id_{number}>"


class Objective(Protocol):
    """A pure function from windows to batches.

    What it draws for a row depends on the row's key alone: the seed and the row's number in the
    endless stream of rows. So every epoch draws differently, every process and restart the same.
    """

    def spec(self, rows: int, length: int) -> BatchSpec:
        """What a batch of so many windows of `length` tokens holds."""

    def batch(self, windows: "Windows", keys: "Keys") -> Arrays:
        """inputs, targets, segments, positions int32 [R, L] and weights float32 [R, L]; for an
        encoder-decoder also encoder_tokens, encoder_segments, encoder_positions int32 [R, S]."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted from what."""

    is_causal: ClassVar[bool] = False
    """Whether every token of a text is predicted from those before it: a text then has bits per
    byte."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """A field of each class, with its name as the default."""

    @property
    def control_pieces(self) -> tuple[str, ...]:
        """Special tokens, beside BOS and the like, that the tokenizer must have."""
        return ()

    def problems(self, encoder: int, decoder: int) -> Iterator[str]:
        """Everything wrong with the values, for a model of so many layers."""
        return iter(())

    def build(self, vocabulary: "Vocabulary", encodes: bool) -> Objective:
        """The objective for a tokenizer's vocabulary.

        Args:
          vocabulary: of the run's tokenizer.
          encodes: whether the model is an encoder-decoder.

        Raises:
          UserError: the vocabulary lacks a token that the objective needs.
        """
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True)
class PartConfig(ObjectiveConfig):
    """An objective that can be part of a mixture."""

    weight: float = field(default=1.0, kw_only=True)
    """Share of the rows in a mixture, relative to the other parts' weights."""

    models: ClassVar[tuple[str, ...]] = ("decoder",)
    """The kinds of model that it trains: decoder, encoder, encoder-decoder."""

    def value_problems(self) -> Iterator[str]:
        """What is wrong with the values whatever the model, each as ".field: what"."""
        if not 0 < self.weight < 1e30:
            yield f".weight: {self.weight} is not a positive number"

    def problems(self, encoder: int, decoder: int, path: str = "objective") -> Iterator[str]:
        yield from (f"{path}{problem}" for problem in self.value_problems())
        stacks = {"encoder": encoder, "decoder": decoder}
        model = "-".join(name for name, layers in stacks.items() if layers > 0)
        if model and model not in self.models:
            suitable = [kind for kind, part in PARTS.items() if model in part.models]
            wanted = " or ".join(self.models)
            yield (
                f"{path}: {self.kind} needs {_article(wanted)} {wanted}, the model is "
                f"{_article(model)} {model} (model.num_encoder_layers {encoder}, "
                f"model.num_decoder_layers {decoder}), which trains by {' or '.join(suitable)}"
            )


_PARTS = {
    "causal": "llmjax.data.objectives.causal:CausalConfig",
    "masked": "llmjax.data.objectives.masked:MaskedConfig",
    "span": "llmjax.data.objectives.pairs:SpanConfig",
    "prefix": "llmjax.data.objectives.pairs:PrefixConfig",
}
PARTS: Registry[PartConfig] = Registry("objective", _PARTS)
OBJECTIVES: Registry[ObjectiveConfig] = Registry(
    "objective", {**_PARTS, "mixture": "llmjax.data.objectives.mixture:MixtureConfig"}
)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
