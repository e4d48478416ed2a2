"""The bars: the model's bits per byte beside those of the classical compressors."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.report.heldout import Comparison
from llmjax.report.history import History, last
from llmjax.report.numbers import count, percent


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
    reference, length = baselines[0], baselines[0].original_bytes
    rows = [
        (b.bits_per_byte, b.name, count(b.compressed_bytes), f"{b.seconds:.2f}", False)
        for b in baselines
    ]
    ours = last(history.evals, "bits_per_byte")
    if ours is not None:
        rows.append((ours, "llmjax", count(ours * length / 8), "", True))
    longest = max(bits for bits, *_ in rows)
    return [
        Bar(
            name=name,
            width=f"{100 * bits / longest:.2f}",
            bits=f"{bits:.4f}",
            size=size,
            against=""
            if name == reference.name
            else percent(bits / reference.bits_per_byte - 1, signed=True),
            seconds=seconds,
            ours=ours,
        )
        for bits, name, size, seconds, ours in sorted(rows)
    ]


def caption(comparison: Comparison) -> str:
    """What was compressed."""
    if not comparison.baselines:
        return ""
    length = count(comparison.baselines[0].original_bytes)
    return (
        f"Bits per byte of the same held-out text, {length} bytes in one piece, compressed when "
        "this page was written. Shorter is better."
    )


def notes(history: History, comparison: Comparison) -> Sequence[str]:
    """What one has to know to read the bars rightly."""
    said = list(comparison.notes)
    if not comparison.baselines:
        return said
    if not history.evals:
        return [*said, "The model is missing here: it has not been evaluated on held-out text."]
    scored = last(history.evals[-1:], "heldout_bytes")
    if scored is not None and comparison.bytes is not None and scored < comparison.bytes:
        said.append(
            f"The model's figure is of the first {count(scored)} of these bytes: the last "
            "evaluation was limited by evaluation.max_tokens."
        )
    said.append(
        "The model's bytes are its code length: what an arithmetic coder would write, driven by "
        "the model's predictions. Its weights are not counted. They were made from text like this "
        "one; of the compressors, only brotli brings words along."
    )
    return said
