"""The page of a ladder: runs, fit, residuals, optimum by budget, predictions and their outcomes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from llmjax.errors import UserError
from llmjax.reporting.charts import Axis, Chart, Series, span
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.format import count, short
from llmjax.reporting.report import render
from llmjax.reporting.series import describe, values_json
from llmjax.run.config.storage import package_version
from llmjax.scaling.fitting import COVERAGE
from llmjax.scaling.laws import LossLaw
from llmjax.scaling.points import REPETITION, Point
from llmjax.scaling.results import EARLY, NAMES, steepens, value_at
from llmjax.scaling.scale import Outcome, Scaled
from llmjax.storage.writing import write_atomically

COLOURS = 8


@dataclass(frozen=True)
class ScalingPage:
    """The variables of the template, in the order of the page."""

    name: str
    lede: str
    warnings: Sequence[str]
    outcomes: Sequence[Sequence[str]]
    figures: Sequence[Figure]
    constants: Sequence[tuple[str, str, str]]
    """Name, value and interval of the law's."""
    budgets: Sequence[Sequence[str]]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    version: str
    date: datetime


def write_report(scaled: Scaled) -> Path:
    """Writes report.html into the ladder's folder.

    Raises:
      UserError: it cannot be written.
    """
    path = scaled.folder.path / "report.html"
    try:
        write_atomically(path, render("scaling.html", make_page(scaled)))
    except OSError as error:
        raise UserError(path, f"cannot be written: {error.strerror or error}") from error
    return path


def make_page(scaled: Scaled) -> ScalingPage:
    """Gathers the page."""
    fit, points = scaled.result.fit, scaled.result.points
    sizes = len({point.parameters for point in points})
    spread = f"{scaled.result.spread:.2%}"
    flops = [point.flops for point in points]
    return ScalingPage(
        name=f"Ladder {scaled.folder.path.name}",
        lede=f"{len(points)} runs of {sizes} sizes over a factor of "
        f"{short(max(flops) / min(flops))} in compute; they deviate from the law by {spread}.",
        warnings=[f"{EARLY[0].upper()}{EARLY[1:]}."] if steepens(points) else [],
        outcomes=[_outcome(each) for each in scaled.outcomes],
        figures=[_by_compute(scaled), _by_tokens(scaled), _residuals(scaled)],
        constants=[
            (name, f"{value:.4g}", "{:.4g} to {:.4g}".format(*fit.interval(value_at(index))))
            for index, (name, value) in enumerate(zip(NAMES, fit.law.values(), strict=True))
        ],
        budgets=[_budget(scaled, factor) for factor in (1, 10, 100, 1000)],
        rows=[_row(scaled, point) for point in scaled.points],
        notes=_notes(scaled),
        version=package_version(),
        date=datetime.now(UTC),
    )


def _outcome(each: Outcome) -> list[str]:
    told = each.prediction
    written = datetime.fromtimestamp(told.written, UTC).strftime("%Y-%m-%d %H:%M UTC")
    measured = "not trained yet" if each.measured is None else f"{each.measured:.4f}"
    error = "" if each.error is None else f"{each.error:+.2%}"
    interval = f"{told.low:.4f} to {told.high:.4f}"
    return [each.name, f"{told.bits_per_byte:.4f}", interval, measured, error, written]


def _budget(scaled: Scaled, factor: float) -> list[str]:
    """The optimum of a budget, relative to the ladder's largest run."""
    result = scaled.result
    largest = max(result.points, key=lambda point: point.flops)
    flops = factor * largest.flops
    # What a parameter costs per token in the largest run, attention and the LM head included.
    per_parameter = largest.flops / largest.tokens / result.count(largest)

    def at(which: int) -> Callable[[LossLaw], float]:
        return lambda law: law.optimum(flops, per_parameter)[which]

    parameters, tokens = result.fit.law.optimum(flops, per_parameter)
    loss = float(result.fit.law.loss(parameters, tokens))
    intervals = [result.fit.interval(at(which)) for which in (0, 1)]
    texts = [f"{count(int(low))} to {count(int(high))}" for low, high in intervals]
    return [
        f"{flops:.2e}", count(int(parameters)), texts[0], count(int(tokens)), texts[1],
        f"{tokens / parameters:.1f}", f"{loss:.4f}",
    ]  # fmt: skip


def _row(scaled: Scaled, point: Point) -> list[str]:
    law = scaled.result.fit.law
    expected = float(law.loss(scaled.result.count(point), point.effective_tokens))
    return [
        point.name, str(point.width), count(point.parameters),
        count(point.parameters_without_embeddings), count(point.tokens), f"{point.flops:.2e}",
        f"{point.bits_per_byte:.4f}", f"{expected:.4f}",
        f"{np.log(point.bits_per_byte / expected):+.2%}",
    ]  # fmt: skip


def _depths(points: Sequence[Point]) -> list[int]:
    return sorted({point.depth for point in points})


def _style(index: int) -> str:
    return f"run{index % COLOURS}" + (" dashed" if index >= COLOURS else "")


def _by_compute(scaled: Scaled) -> Figure:
    """Bits per byte against FLOPs: measured, with the predictions as diamonds."""
    series = []
    for index, depth in enumerate(_depths(scaled.points)):
        of = sorted((p for p in scaled.points if p.depth == depth), key=lambda p: p.flops)
        values = [(p.flops, p.bits_per_byte) for p in of]
        series.append(Series(f"{depth} layers", _style(index), values, dots=True))
    flops = {member.name: member.flops for member in scaled.folder.members()}
    told = [(flops[each.name], each.prediction.bits_per_byte) for each in scaled.outcomes]
    if told:
        series.append(Series("predicted", "run7", sorted(told), line=False))
    return _figure("compute", "Bits per byte by training FLOPs", series, "FLOPs")


def _by_tokens(scaled: Scaled) -> Figure:
    """Bits per byte against tokens: measured as diamonds, the law as lines."""
    result, series = scaled.result, []
    for index, depth in enumerate(_depths(scaled.points)):
        of = sorted((p for p in scaled.points if p.depth == depth), key=lambda p: p.tokens)
        grid = np.geomspace(of[0].tokens / 1.5, of[-1].tokens * 1.5, 40)
        tokens = REPETITION.effective_tokens(grid, of[0].unique_tokens)
        law = result.fit.law.loss(result.count(of[0]), tokens)
        line = list(zip(grid.tolist(), law.tolist(), strict=True))
        series.append(Series(f"{depth} layers", _style(index), line))
        dots = [(float(p.tokens), p.bits_per_byte) for p in of]
        series.append(Series("", _style(index), dots, line=False))
    title = "Bits per byte by training tokens: runs, and the law"
    return _figure("tokens", title, series, "tokens")


def _residuals(scaled: Scaled) -> Figure:
    law, result, series = scaled.result.fit.law, scaled.result, []
    for index, depth in enumerate(_depths(scaled.points)):
        values = []
        for point in sorted(scaled.points, key=lambda p: p.flops):
            if point.depth == depth:
                expected = float(law.loss(result.count(point), point.effective_tokens))
                values.append((point.flops, 100 * np.log(point.bits_per_byte / expected)))
        series.append(Series(f"{depth} layers", _style(index), values, line=False))
    title = "Deviation from the law in percent; above 0: worse than the law says"
    return _figure("residuals", title, series, "FLOPs", log=False, levels=[("", 0.0)])


def _figure(
    key: str,
    title: str,
    series: Sequence[Series],
    x_label: str,
    *,
    log: bool = True,
    levels: Sequence[tuple[str, float]] = (),
) -> Figure:
    xs = [x for each in series for x, _ in each.points]
    ys = [y for each in series for _, y in each.points] + [level for _, level in levels]
    x_axis = span(xs, log=True) or Axis(1, 10, log=True)
    y_axis = span(ys, log=log) or Axis(1, 10, log=log)
    shown = describe(title, {each.name: each.points for each in series if each.name}, x_label)

    def chart(width: int) -> Chart:
        unit = "bits per byte" if log else "%"
        return Chart(
            shown, series, x_axis, y_axis, levels, width=width, height=300, margin=84,
            x_label=x_label, y_label=unit,
        )  # fmt: skip

    view = View("", chart(720).svg(f"{key}-wide"), chart(400).svg(f"{key}-narrow"))
    return Figure(key, title, [view], values_json(series, x_axis))


def _notes(scaled: Scaled) -> list[str]:
    notes = [
        "The law is bits per byte = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022), fitted by "
        "the sum of Huber losses of logarithms from many starts (Besiroglu et al. 2024). "
        f"N: {scaled.result.counted}, the count that the runs follow closer. D: training tokens. "
        f"Intervals hold {COVERAGE:.0%} of {len(scaled.result.fit.samples)} bootstrap samples.",
        "FLOPs are those of training by PaLM's accounting: 6 for each weight that multiplies a "
        "token, and attention over the whole row; embeddings do not count. Optima take the cost of "
        "a parameter and token from the largest run.",
    ]
    if any(point.tokens > point.unique_tokens for point in scaled.points):
        notes.append(
            "Some runs read their text more than once; repeated tokens count less, with "
            f"R* = {REPETITION.half_life} (Muennighoff et al. 2023)."
        )
    return notes
