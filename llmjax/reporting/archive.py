"""compression.json as the page shows it: the last archive, what context gives, what surprised."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.evaluation.baselines import Baseline
from llmjax.reporting.axes import Axis, span
from llmjax.reporting.bars import Bar, ranked
from llmjax.reporting.charts import Chart, Point, Series
from llmjax.reporting.curves import Figure, View, values_json
from llmjax.reporting.history import number
from llmjax.reporting.measured import known_baselines, listed
from llmjax.reporting.numbers import count, duration, percent, size
from llmjax.reporting.record import known_number
from llmjax.reporting.samples import visible
from llmjax.storage.json_documents import read_json

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 12.0)
"""Bits from which a piece of text has the next stronger colour."""

FEWEST = 8
"""Tokens that a point of the curve stands for at least."""


@dataclass(frozen=True)
class Piece:
    """Text with its cost; `level` counts the LEVELS that it reaches."""

    text: str
    bits: float
    level: int
    anew: bool


@dataclass(frozen=True)
class Archive:
    """The section of the page."""

    about: str
    bars: Sequence[Bar]
    reference: str
    caption: str
    notes: Sequence[str]
    figure: Figure | None
    passage: Sequence[Piece]
    passage_note: str
    legend: Sequence[tuple[int, str]]


def read_archive(folder: Path) -> Archive | None:
    """What RUN/compression.json says; None where it is missing or is something else."""
    try:
        found = read_json(folder / "compression.json")
    except UserError:
        return None
    if not isinstance(found, dict):
        return None
    length, written = (known_number(found, key) for key in ("bytes", "archive_bytes"))
    if not length or not written:
        return None
    others = known_baselines(found.get("compared"))
    pieces = _pieces(found)
    return Archive(
        about=_about(found, length, written),
        bars=ranked(others, 8 * written / length, length),
        reference=others[0].name if others else "",
        caption=f"Bits per byte of this input, {count(length)} bytes; archives with their headers.",
        notes=_notes(found, length, written, others),
        figure=_figure(found, 8 * written / length),
        passage=pieces,
        passage_note=_passage_note(pieces),
        legend=_legend(),
    )


def _about(found: Mapping[str, Any], length: float, written: float) -> str:
    name = Path(str(found.get("source") or "-")).name
    source = "standard input" if name == "-" else name
    step, seconds = (known_number(found, key) for key in ("step", "seconds"))
    said = f"The last archive: {visible(source)}, {size(length)} as {size(written)}, "
    said += f"{percent(written / length)} of the input"
    said += f", by the checkpoint of step {count(step)}" if step is not None else ""
    said += f", in {duration(seconds)}" if seconds else ""
    return said + "."


def _notes(
    found: Mapping[str, Any], length: float, written: float, others: Sequence[Baseline]
) -> list[str]:
    said = []
    model = known_number(found, "model_bytes")
    if model:
        ratio = (written + model) / length
        said.append(
            f"The model's own {size(model)} are not in its bar. Archive and model together are "
            f"{ratio:,.2f} times the input, {8 * ratio:,.1f} bits per byte: what one without "
            "the model would have to receive."
        )
    best = min(others, key=lambda one: one.compressed_bytes, default=None)
    if model and best is not None and best.compressed_bytes > written:
        needed = model / ((best.compressed_bytes - written) / length)
        said.append(
            f"Counted in, the model would pay from about {size(needed)} of text like this on, "
            f"against {best.name}."
        )
    if not others:
        said.append("The classical compressors were not run on this input.")
    if found.get("verify_seconds", 0) is None:
        said.append("The archive was not decoded again (--no-verify).")
    return said


def _figure(found: Mapping[str, Any], mean: float) -> Figure | None:
    """Bits per byte against the tokens of context that a token was told from."""
    points: list[Point] = []
    for entry in listed(found.get("at")):
        first, bits, tokens, length = _numbers(entry, 4)
        if tokens >= FEWEST and length > 0 and bits >= 0 and 0 <= first < 1e15:
            points.append((first + 1, bits / length))
    y = span([value for _, value in points] + [mean])
    if len(points) < 3 or y is None:
        return None
    x = Axis(points[0][0], points[-1][0] * 1.05, log=True)
    series = (Series("model", "heldout", points, dots=True),)
    words = (
        f"Bits per byte by tokens of context: {points[0][1]:.2f} with {points[0][0]:g}, "
        f"{points[-1][1]:.2f} from {points[-1][0]:g} on"
    )
    axis = Axis(min(0.0, y.low), y.high) if y.low < y.high / 3 else y
    chart = Chart(
        words, series, x, axis, [("archive", mean)], width=940, height=320, margin=84, steps=""
    )
    narrow = Chart(
        words, series, x, axis, [("archive", mean)], width=440, height=260, margin=84, steps=""
    )
    view = View("", chart.svg("context"), narrow.svg("context-narrow"))
    title, unit = "Bits per byte by tokens of context", "logarithmic; the first of each lane has 1"
    return Figure("context", title, unit, [view], values_json(series, x))


def _numbers(entry: Any, width: int) -> tuple[float, ...]:
    """The numbers of a list of that length; zeros of anything else."""
    fits = isinstance(entry, list) and len(entry) == width
    values = [number({"value": value}, "value") for value in entry] if fits else []
    return tuple(values) if values and not any(map(math.isnan, values)) else (0.0,) * width


def _pieces(found: Mapping[str, Any]) -> list[Piece]:
    pieces = []
    for entry in listed(found.get("passage")):
        if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str):
            (bits,) = _numbers([entry[1]], 1)
            text = visible(entry[0]).replace("\n", "↵\n")
            level = sum(bits >= least for least in LEVELS)
            pieces.append(Piece(text, bits, level, entry[2] is True))
    return pieces


def _passage_note(pieces: Sequence[Piece]) -> str:
    if not pieces:
        return (
            "No passage was kept: `llmjax compress RUN IN OUT --passage` keeps what each of the "
            "first 2,000 tokens cost, with their text."
        )
    bits = sum(piece.bits for piece in pieces)
    said = (
        f"The beginning of the input, {count(len(pieces))} pieces of text: {bits:,.0f} bits. The "
    )
    said += "stronger the colour, the less the model expected a token; point at one for its cost."
    if any(piece.anew for piece in pieces):
        said += " A bar marks where a lane begins, without context."
    return said


def _legend() -> list[tuple[int, str]]:
    """(level, which bits have it)."""
    names = [f"under {LEVELS[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in itertools.pairwise(LEVELS)]
    return list(enumerate([*names, f"{LEVELS[-1]:g} bits or more"]))
