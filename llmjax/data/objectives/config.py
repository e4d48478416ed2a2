"""What is to be predicted from what: frozen values, cheap to import."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

MASK = "<mask>"
"""The piece that a tokenizer trained here gets for masks."""


def sentinel(number: int) -> str:
    """The piece that stands for span `number` of a document, as T5 spells it."""
    return f"<extra_id_{number}>"


@dataclass(frozen=True)
class CausalConfig:
    """Every token from those before it in its document. For decoders."""

    weight: float = 1.0
    """Share of the rows in a mixture, relative to the other parts' weights."""
    kind: Literal["causal"] = "causal"


@dataclass(frozen=True)
class MaskedConfig:
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
    weight: float = 1.0
    """Share of the rows in a mixture, relative to the other parts' weights."""
    kind: Literal["masked"] = "masked"


@dataclass(frozen=True)
class SpanConfig:
    """Spans that were left out of a text (T5, arXiv:1910.10683). For encoder-decoders."""

    density: float = 0.15
    """Share of a row's tokens of text that are left out."""
    mean_length: float = 3.0
    """Tokens in a span, on average."""
    sentinels: int = 100
    """Tokens that stand for spans, and so the most spans of a document in a row."""
    weight: float = 1.0
    """Share of the rows in a mixture, relative to the other parts' weights."""
    kind: Literal["span"] = "span"


@dataclass(frozen=True)
class PrefixConfig:
    """Each document of a row is cut at a random place: its rest from its beginning. For
    encoder-decoders; and for decoders, which then learn from the rest alone."""

    weight: float = 1.0
    """Share of the rows in a mixture, relative to the other parts' weights."""
    kind: Literal["prefix"] = "prefix"


PartConfig: TypeAlias = CausalConfig | MaskedConfig | SpanConfig | PrefixConfig


@dataclass(frozen=True)
class MixtureConfig:
    """Each row of the global batch has one of several objectives, drawn by weight."""

    parts: tuple[PartConfig, ...] = field(default_factory=lambda: (SpanConfig(), PrefixConfig()))
    """The objectives; all must suit the model."""
    kind: Literal["mixture"] = "mixture"


ObjectiveConfig: TypeAlias = CausalConfig | MaskedConfig | SpanConfig | PrefixConfig | MixtureConfig

SUITS: dict[str, tuple[str, ...]] = {
    "causal": ("decoder",),
    "masked": ("encoder",),
    "span": ("encoder-decoder",),
    "prefix": ("encoder-decoder", "decoder"),
}
"""Which kinds of model can learn by which objective."""


def parts_of(objective: ObjectiveConfig) -> tuple[PartConfig, ...]:
    """The parts of a mixture; any other objective alone."""
    return objective.parts if isinstance(objective, MixtureConfig) else (objective,)


def control_pieces(objective: ObjectiveConfig) -> tuple[str, ...]:
    """Special tokens, beside BOS and the like, that a tokenizer must have for the objective."""
    parts = parts_of(objective)
    spans = max((part.sentinels for part in parts if isinstance(part, SpanConfig)), default=0)
    masks = any(isinstance(part, MaskedConfig) for part in parts)
    return (*((MASK,) if masks else ()), *map(sentinel, range(spans)))


def objective_problems(objective: ObjectiveConfig, encoder: int, decoder: int) -> Iterator[str]:
    """Everything wrong with the values of `objective`, for a model of so many layers."""
    stacks = {"encoder": encoder, "decoder": decoder}
    model = "-".join(name for name, layers in stacks.items() if layers > 0)
    parts = parts_of(objective)
    if not parts:
        yield "objective.parts: give at least one"
    for number, part in enumerate(parts):
        name = f"objective.parts.{number}" if isinstance(objective, MixtureConfig) else "objective"
        yield from (f"{name}{problem}" for problem in _value_problems(part))
        if model and model not in SUITS[part.kind]:
            known = [kind for kind, models in SUITS.items() if model in models]
            wanted = " or ".join(SUITS[part.kind])
            yield (
                f"{name}: {part.kind} wants {_article(wanted)} {wanted}, the model is "
                f"{_article(model)} {model} (model.num_encoder_layers {encoder}, "
                f"model.num_decoder_layers {decoder}), which learns by {' or '.join(known)}"
            )


def _value_problems(part: PartConfig) -> Iterator[str]:
    if not 0 < part.weight < 1e30:
        yield f".weight: {part.weight} is not a positive number"
    if isinstance(part, MaskedConfig):
        if not 0 < part.share < 1:
            yield f".share: {part.share} is not between 0 and 1"
        if min(part.masked, part.random) < 0 or not part.masked + part.random <= 1 + 1e-9:
            yield f".masked: {part.masked}, and random {part.random}, are no shares of one whole"
    if isinstance(part, SpanConfig):
        if not 0 < part.density < 1:
            yield f".density: {part.density} is not between 0 and 1"
        if not 1 <= part.mean_length < 1e9:
            yield f".mean_length: {part.mean_length} is not at least 1"
        if part.sentinels < 1:
            yield f".sentinels: {part.sentinels} is not positive"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
