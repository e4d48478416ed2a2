"""Which curves the page shows, and in which frames."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from llmjax.evaluation.baselines import Baseline
from llmjax.reporting.axes import Axis, span
from llmjax.reporting.charts import Chart, Point, Series, thin
from llmjax.reporting.history import History, column, quality, split_evals
from llmjax.reporting.numbers import power, tick

SMOOTH_FROM = 60
"""A noisy curve with at least so many points is drawn faintly, with its running mean on top."""

FINENESS = 500
"""Stretches of a curve that are shorter than this part of the way to them are drawn as one."""


@dataclass(frozen=True)
class View:
    """One drawing of a figure: wide, and narrow for small screens where that differs."""

    name: str
    wide: Markup
    narrow: Markup | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the page: drawings of the same curves, and their values for the read-out."""

    key: str
    title: str
    unit: str
    views: Sequence[View]
    values: Markup


def figures(history: History, baselines: Sequence[Baseline], *, tasks: int = 0) -> list[Figure]:
    """The figures for which the run has values; the learning curve first.

    Args:
      history: what was logged.
      baselines: the compressors' figures, a level to pass.
      tasks: how many were learnt, whose figures are drawn elsewhere; 0: text was.
    """
    unit = "" if tasks else "nats per target"
    if tasks > 1:
        unit = "held-out: the mean of all tasks; train: of the tasks that had their turn"
    found = (
        _learning(history, baselines, unit),
        None if tasks and history.evals else _accuracy(history),
        _small(history, "learning_rate", "Learning rate", smooth=False),
        _small(history, "gradient_norm", "Gradient norm", log=True),
        _small(history, "tokens_per_second", "Throughput", "tokens per second", zero=True),
        _small(
            history, "data_wait_share", "Waiting for data", "% of the time", scale=100, zero=True
        ),
    )
    return [figure for figure in found if figure is not None]


def _learning(history: History, baselines: Sequence[Baseline], unit_of_loss: str) -> Figure | None:
    """Bits per byte of training batches and of held-out text, with xz as the level to pass."""
    key = quality([*history.train, *history.evals])
    name, unit = ("Bits per byte", "") if key == "bits_per_byte" else ("Loss", unit_of_loss)
    logged = column(history.train, key)
    train = condense(logged)
    heldout, part = (column(lines, key) for lines in split_evals(history.evals))
    points = [*train, *part, *heldout]
    levels = [(b.name, b.bits_per_byte) for b in baselines[:1]]
    steps = steps_axis(points)
    whole = span([v for _, v in points] + [v for _, v in levels], log=True)
    if whole is None or steps is None or not _finite(points):
        return None
    series = (
        *smoothed("train", logged),
        *([Series("held-out, part", "part", part, dots=True)] if part else []),
        Series("held-out", "heldout", heldout, dots=True),
    )
    curves = {"train": train, "a part of the held-out text": part, "held-out": heldout}
    title = in_sentence(f"{name} by step", curves)
    margin = 104 if part else 84
    chart = Chart(title, series, steps, whole, levels, width=940, height=380, margin=margin)
    views = [_view("", chart, "bpb")]
    first = min((step for step, _ in _finite(points) if step > 0), default=steps.high)
    late = [point for point in points if point[0] >= steps.high / 10]
    close = span([v for _, v in late] + [v for _, v in levels])
    if steps.high > 20 * first and close is not None:
        views = [
            _view("log steps", replace(chart, x=replace(steps, low=first, log=True)), "bpb-log"),
            _view(
                "close-up", replace(chart, x=replace(steps, low=steps.high / 10), y=close), "bpb"
            ),
        ]
    return Figure("bits_per_byte", name, unit, views, values_json(series, steps))


def _accuracy(history: History) -> Figure | None:
    """Of what is hidden, how much is told rightly; of objectives that have no bits per byte."""
    if quality([*history.train, *history.evals]) == "bits_per_byte":
        return None
    return _small(history, "accuracy", "Accuracy", "% of the targets", scale=100, zero=True)


def _small(
    history: History,
    key: str,
    title: str,
    unit: str = "",
    *,
    scale: float = 1.0,
    log: bool = False,
    zero: bool = False,
    smooth: bool = True,
) -> Figure | None:
    """A small figure of one column of the training lines; tiny values in powers of ten."""
    logged = [(step, scale * value) for step, value in column(history.train, key)]
    points = condense(logged)
    title_in_words = in_sentence(f"{title} by step", {"": points})
    values = [value for _, value in points]
    x, y = steps_axis(points), span(values)
    if x is None or y is None:
        return None
    if 0 < (high := max(abs(v) for _, v in _finite(points))) < 0.02:
        exponent = math.floor(math.log10(1.05 * high))
        logged = [(step, value / 10.0**exponent) for step, value in logged]
        points = condense(logged)
        unit = f"in units of {power(10.0**exponent)} {unit}".strip()
        y = span([value for _, value in points]) or y
    rising = span(values, log=True) if log else None
    if rising is not None and rising.high > 8 * rising.low:
        y, unit = rising, "logarithmic"
    elif zero or min(value for _, value in _finite(points)) >= 0:
        y = Axis(0.0, y.high)
    series = smoothed("", logged) if smooth else (Series("", "train", points),)
    chart = Chart(title_in_words, series, x, y)
    views = [View("", chart.svg(key))]
    return Figure(key, title, unit, views, values_json(series, x))


def _view(name: str, chart: Chart, key: str) -> View:
    narrow = replace(chart, width=440, height=330)
    return View(name, chart.svg(key), narrow.svg(f"{key}-narrow"))


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def steps_axis(points: Sequence[Point]) -> Axis | None:
    """From zero to the last step."""
    return Axis(0.0, max(1.0, max(step for step, _ in points))) if points else None


def smoothed(name: str, points: Sequence[Point]) -> tuple[Series, ...]:
    """A curve; where it has many points, faintly behind its running mean."""
    finite = _finite(points)
    if len(finite) < SMOOTH_FROM:
        return (Series(name, "train", points),)
    mean = condense(running_mean(finite))
    return Series("", "raw", condense(points)), Series(name, "train", mean)


def condense(points: Sequence[Point]) -> list[Point]:
    """A long curve with a few thousand points, its peaks, troughs, breaks and ends among them.

    Stretches of 1/FINENESS of the way so far shrink to their lowest and highest point, which is
    finer than a drawing, with linear steps or logarithmic ones.
    """
    kept: list[Point] = []
    start = 0
    while start < len(points):
        stop = start + max(1, start // FINENESS)
        stretch = points[start:stop]
        finite = _finite(stretch)
        ends = {min(finite, key=_value), max(finite, key=_value)} if finite else set()
        broken = next((point for point in stretch if not math.isfinite(point[1])), None)
        kept += sorted({*ends, broken} if broken else ends, key=_step)
        start = stop
    return [*kept, points[-1]] if points and kept[-1] != points[-1] else kept


def _step(point: Point) -> float:
    return point[0]


def _value(point: Point) -> float:
    return point[1]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Each value becomes the mean of its neighbours: 3 % of the way behind and ahead of it.

    The window grows with the index: the steep start is not blurred, the calm end is not noisy.
    """
    sums = [0.0, *itertools.accumulate(value for _, value in points)]
    means = []
    for index, (step, _) in enumerate(points):
        reach = round(0.03 * index)
        low, high = index - reach, min(index + reach + 1, len(points))
        means.append((step, (sums[high] - sums[low]) / (high - low)))
    return means


def in_sentence(title: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """What a curve shows, for those who do not see it."""
    said = []
    for name, points in curves.items():
        if finite := _finite(points):
            (start, first), (end, final) = finite[0], finite[-1]
            low, high = (pick(value for _, value in finite) for pick in (min, max))
            said.append(
                f"{name} from {tick(first)} at step {start:,.0f} to {tick(final)} at step "
                f"{end:,.0f}, between {tick(low)} and {tick(high)}".strip()
            )
    return f"{title}: {'; '.join(said)}"


def values_json(series: Sequence[Series], steps: Axis) -> Markup:
    """The curves as JSON for the read-out, thinned both for linear and for logarithmic steps."""
    log = replace(steps, low=min(1.0, steps.high / 2), log=True)
    curves = []
    for one in series:
        if one.style == "raw":
            continue
        points = _finite(one.points)
        kept = sorted({*thin(points, steps), *thin([p for p in points if p[0] > 0], log)})
        shown = [[step, float(f"{value:.4g}")] for step, value in kept]
        curves.append({"name": one.name, "points": shown})
    return Markup(json.dumps(curves, separators=(",", ":")).replace("<", "\\u003c"))
