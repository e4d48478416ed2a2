"""The bars: the model's bits per byte beside those of the classical compressors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.evaluation.baselines import Baseline
from llmjax.reporting.heldout import Comparison
from llmjax.reporting.history import History, last, number, split_evals
from llmjax.reporting.numbers import count, percent


@dataclass(frozen=True)
class Bar:
    """A line of the comparison; `width` in per cent of the room for bars."""

    name: str
    width: str
    bits: str
    size: str
    against: str
    seconds: str
    ours: bool = False


def bars(history: History, comparison: Comparison) -> list[Bar]:
    """The methods, best first; the model among them once it was evaluated."""
    baselines = comparison.baselines
    if not baselines:
        return []
    return ranked(baselines, last(history.evals, "bits_per_byte"), baselines[0].original_bytes)


def ranked(baselines: Sequence[Baseline], ours: float | None, length: float) -> list[Bar]:
    """The methods, best first, compared with the first of the baselines.

    Args:
      baselines: the compressors' figures; may be empty.
      ours: the model's bits per byte; None where they are not known.
      length: bytes of the input.
    """
    reference = baselines[0] if baselines else None
    rows = [
        (b.bits_per_byte, b.name, count(b.compressed_bytes), f"{b.seconds:.2f}", False)
        for b in baselines
    ]
    if ours is not None:
        rows.append((ours, "llmjax", count(ours * length / 8), "", True))
    longest = max((bits for bits, *_ in rows), default=1.0)
    return [
        Bar(
            name=name,
            width=f"{100 * bits / longest:.2f}",
            bits=f"{bits:.4f}",
            size=size,
            against=""
            if reference is None or name == reference.name
            else percent(bits / reference.bits_per_byte - 1, signed=True),
            seconds=seconds,
            ours=is_ours,
        )
        for bits, name, size, seconds, is_ours in sorted(rows)
    ]


def caption(comparison: Comparison) -> str:
    """What was compressed."""
    if not comparison.baselines:
        return ""
    length = count(comparison.baselines[0].original_bytes)
    when = ", compressed when this page was written" if comparison.live else ""
    return f"Bits per byte of the same held-out text, {length} bytes in one piece{when}."


def same_text(history: History, comparison: Comparison) -> bool:
    """Whether the model's figure is of all the text that was compressed, as far as is known."""
    return comparison.bytes is None or not _scored(history) < comparison.bytes


def _scored(history: History) -> float:
    """Bytes of text of the last evaluation that succeeded; NaN if unknown."""
    like, _ = split_evals(history.evals)
    return number(like[-1], "heldout_bytes") if like else math.nan


def notes(history: History, comparison: Comparison) -> Sequence[str]:
    """What one has to know to read the bars rightly."""
    said = list(comparison.notes)
    if not comparison.baselines:
        return said
    if not history.evals:
        return [*said, "The model is missing here: it has not been evaluated on held-out text."]
    if not same_text(history, comparison):
        said.append(
            f"The model's figure is of the first {count(_scored(history))} of these bytes: the "
            "last evaluation was limited by evaluation.max_tokens."
        )
    said.append(
        "The model's bytes are its code length: what an arithmetic coder would write, driven by "
        "the model's predictions. Its weights are not counted. They were made from text like this "
        "one; of the compressors, only brotli brings words along."
    )
    return said
