"""Training objectives: the base classes of their configs, and the registry.

An objective is a frozen dataclass of its settings, derived from `PartConfig`; `build` returns the
object that turns windows of the token stream into batches. To add one, add a file with such a class
and a line here.
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
"""The mask token of tokenizers trained here."""


def sentinel(number: int) -> str:
    """The token that stands for span `number` of a document, as in T5."""
    return f"<extra_id_{number}>"


class Objective(Protocol):
    """A pure function from windows to batches.

    A row's random numbers depend only on its key: the seed and the row's number in the endless
    stream of rows. So each epoch draws different ones, each process and restart the same.
    """

    def spec(self, rows: int, length: int) -> BatchSpec:
        """The spec of a batch of `rows` windows of `length` tokens."""

    def batch(self, windows: "Windows", keys: "Keys") -> Arrays:
        """inputs, targets, segments, positions int32 [R, L] and weights float32 [R, L]; for an
        encoder-decoder also encoder_tokens, encoder_segments, encoder_positions int32 [R, S]."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The training objective: what is predicted from what."""

    is_causal: ClassVar[bool] = False
    """Whether every token is predicted from those before it, so that texts have bits per byte."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """A field of each subclass, whose default is its name."""

    @property
    def control_pieces(self) -> tuple[str, ...]:
        """Special tokens that the tokenizer needs in addition to BOS and the like."""
        return ()

    def problems(self, encoder: int, decoder: int) -> Iterator[str]:
        """Every problem with the values, for a model of so many layers."""
        return iter(())

    def build(self, vocabulary: "Vocabulary", is_encoder_decoder: bool) -> Objective:
        """Builds the objective.

        Args:
          vocabulary: of the run's tokenizer.
          is_encoder_decoder: whether the model is one.

        Raises:
          UserError: the vocabulary lacks a token that the objective needs.
        """
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True)
class PartConfig(ObjectiveConfig):
    """An objective that can be part of a mixture."""

    weight: float = field(default=1.0, kw_only=True)
    """Share of rows in a mixture, relative to the other parts' weights."""

    models: ClassVar[tuple[str, ...]] = ("decoder",)
    """The types of model that it trains: decoder, encoder, encoder-decoder."""

    def value_problems(self) -> Iterator[str]:
        """Problems with the values for any model, each as ".field: problem"."""
        if not 0 < self.weight < 1e30:
            yield f".weight: {self.weight} is not a positive number"

    def problems(self, encoder: int, decoder: int, path: str = "objective") -> Iterator[str]:
        yield from (f"{path}{problem}" for problem in self.value_problems())
        stacks = {"encoder": encoder, "decoder": decoder}
        model = "-".join(name for name, layers in stacks.items() if layers > 0)
        if model and model not in self.models:
            suitable = [kind for kind, part in PARTS.items() if model in part.models]
            required = " or ".join(self.models)
            yield (
                f"{path}: {self.kind} needs {_article(required)} {required}, the model is "
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
