"""The section on the last archive, from compression.json: sizes, cost by context, the passage."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.evaluation.baselines import Baseline
from llmjax.reporting.charts import Axis, Chart, Point, Series, span
from llmjax.reporting.compressors import Bar, ranked, read_baselines
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.format import count, duration, percent, show_controls, size
from llmjax.reporting.records import finite_number, items, number
from llmjax.reporting.series import values_json
from llmjax.storage.json_documents import read_json

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
"""Thresholds in bits between the colours of a piece of text."""

MIN_TOKENS = 8
"""Minimum tokens per point of the curve."""


@dataclass(frozen=True)
class TextPiece:
    """Text with its cost; `level` is the number of LEVELS that it reaches."""

    text: str
    bits: float
    level: int
    starts_stream: bool


@dataclass(frozen=True)
class ArchiveSection:
    """The section of the page."""

    about: str
    bars: Sequence[Bar]
    reference: str
    caption: str
    notes: Sequence[str]
    figure: Figure | None
    passage: Sequence[TextPiece]
    passage_note: str
    legend: Sequence[tuple[int, str]]


def read_archive(folder: Path) -> ArchiveSection | None:
    """Returns the section of RUN/compression.json; None if that is missing or invalid."""
    try:
        record = read_json(folder / "compression.json")
    except UserError:
        return None
    if not isinstance(record, dict):
        return None
    length, written = (finite_number(record, key) for key in ("bytes", "archive_bytes"))
    if not length or not written:
        return None
    baselines = read_baselines(record.get("compared"))
    passage = _passage(record)
    return ArchiveSection(
        about=_about(record, length, written),
        bars=ranked(baselines, 8 * written / length, length, finite_number(record, "seconds")),
        reference=baselines[0].name if baselines else "",
        caption=f"Bits per byte of this input, {count(length)} bytes; archives with their headers.",
        notes=_notes(record, length, written, baselines),
        figure=_figure(record, 8 * written / length),
        passage=passage,
        passage_note=_passage_note(passage),
        legend=_legend(),
    )


def _about(record: Mapping[str, Any], length: float, written: float) -> str:
    name = Path(str(record.get("source") or "-")).name
    source = "standard input" if name == "-" else show_controls(name)
    step, seconds = (finite_number(record, key) for key in ("step", "seconds"))
    sentence = f"The last archive: {source}, {size(length)} as {size(written)}, "
    sentence += f"{percent(written / length)} of the input"
    sentence += f", by the checkpoint of step {count(step)}" if step is not None else ""
    sentence += f", in {duration(seconds)}" if seconds else ""
    return sentence + "."


def _notes(
    record: Mapping[str, Any], length: float, written: float, baselines: Sequence[Baseline]
) -> list[str]:
    sentences = []
    model = finite_number(record, "model_bytes")
    if model:
        ratio = (written + model) / length
        sentences.append(
            f"The bar does not include the model's {size(model)}. Archive and model together are "
            f"{ratio:,.2f} times the input, {8 * ratio:,.1f} bits per byte: what a receiver "
            "without the model needs."
        )
    best = min(baselines, key=lambda baseline: baseline.compressed_bytes, default=None)
    if model and best is not None and best.compressed_bytes > written:
        needed = model / ((best.compressed_bytes - written) / length)
        sentences.append(
            f"Including the size of the model, it would beat {best.name} from about "
            f"{size(needed)} of similar text."
        )
    if not baselines:
        sentences.append("The classical compressors were not run on this input.")
    if record.get("verify_seconds", 0) is None:
        sentences.append("The archive was not verified (--no-verify).")
    return sentences


def _figure(record: Mapping[str, Any], mean: float) -> Figure | None:
    """Plots bits per byte over the tokens of context that a token was predicted from."""
    points: list[Point] = []
    for entry in items(record.get("at")):
        first, bits, tokens, length = _numbers(entry, 4)
        if tokens >= MIN_TOKENS and length > 0 and bits >= 0 and 0 <= first < 1e15:
            points.append((first + 1, bits / length))
    y = span([value for _, value in points] + [mean])
    if len(points) < 3 or y is None:
        return None
    x = Axis(points[0][0], points[-1][0] * 1.05, log=True)
    y = Axis(min(0.0, y.low), y.high) if y.low < y.high / 3 else y
    series = (Series("model", "validation", points, dots=True),)
    description = (
        f"Bits per byte by tokens of context: {points[0][1]:.2f} with {points[0][0]:g}, "
        f"{points[-1][1]:.2f} from {points[-1][0]:g} on"
    )
    wide = Chart(description, series, x, y, [("archive", mean)], 940, 340, 88)
    wide = replace(wide, x_label="tokens of context (log scale)", y_label="bits per byte")
    narrow = replace(wide, width=440, height=280)
    view = View("", wide.svg("context"), narrow.svg("context-narrow"))
    return Figure("context", "Bits per byte by tokens of context", [view], values_json(series, x))


def _numbers(entry: Any, length: int) -> tuple[float, ...]:
    """Returns the numbers of a list of that length; zeros for anything else."""
    is_valid = isinstance(entry, list) and len(entry) == length
    values = [number({"value": value}, "value") for value in entry] if is_valid else []
    return tuple(values) if values and not any(map(math.isnan, values)) else (0.0,) * length


def _passage(record: Mapping[str, Any]) -> list[TextPiece]:
    pieces = []
    for entry in items(record.get("passage")):
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str):
            (bits,) = _numbers([entry[1]], 1)
            text = show_controls(entry[0]).replace("\n", "↵\n")
            level = sum(bits >= threshold for threshold in LEVELS)
            pieces.append(TextPiece(text, bits, level, entry[2] is True))
    return pieces


def _passage_note(passage: Sequence[TextPiece]) -> str:
    if not passage:
        return (
            "No passage was stored: `llmjax compress RUN IN OUT --passage` stores the first 2,000 "
            "tokens as text, with the cost of each."
        )
    bits = sum(piece.bits for piece in passage)
    note = f"The beginning of the input, {count(len(passage))} pieces of text: {bits:,.0f} bits. "
    note += "The stronger the colour, the less the model expected a token; hover for its cost."
    if any(piece.starts_stream for piece in passage):
        note += " A bar marks where a stream starts, without context."
    return note


def _legend() -> list[tuple[int, str]]:
    """Returns (level, its range of bits)."""
    names = [f"under {LEVELS[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in itertools.pairwise(LEVELS)]
    return list(enumerate([*names, f"{LEVELS[-1]:g} bits or more"]))
