"""The figures of the page: learning curves, metrics of tasks, throughput."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from llmjax.evaluation.baselines import Baseline
from llmjax.metrics.names import display_name, is_fraction, task_metrics
from llmjax.reporting.charts import Axis, Chart, Point, Series, span, thin
from llmjax.reporting.format import power, tick
from llmjax.reporting.records import History, column, main_metric, split_evals

SMOOTH_FROM = 60
"""Minimum points for drawing a noisy curve faintly, with its running mean on top."""

FINENESS = 500
"""Inverse relative resolution of `condense`."""

MAX_TASK_METRICS = 3
"""Metrics to draw per task if there are several, including the loss."""


@dataclass(frozen=True)
class View:
    """One view of a figure: a wide drawing, and a narrow one for small screens if it differs."""

    name: str
    wide: Markup
    narrow: Markup | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the page: views of the same curves, and their values as JSON."""

    key: str
    title: str
    unit: str
    views: Sequence[View]
    values: Markup


def figures(history: History, baselines: Sequence[Baseline], *, tasks: int = 0) -> list[Figure]:
    """Draws the figures for which the run has values, the learning curve first.

    Args:
      history: the logged lines.
      baselines: the classical compressors' sizes; the first is a reference level.
      tasks: number of tasks of a fine-tuned run; 0 for a run on text.
    """
    unit = "" if tasks else "nats per target"
    if tasks > 1:
        unit = "validation: mean of all tasks; train: of the tasks of the batch"
    candidates = (
        _learning_curve(history, baselines, unit),
        *(_task_curves(history) if tasks else ()),
        None if tasks and history.evals else _accuracy(history),
        _small(history, "learning_rate", "Learning rate", smooth=False),
        _small(history, "gradient_norm", "Gradient norm", log=True),
        _small(history, "tokens_per_second", "Throughput", "tokens per second", zero=True),
        _small(
            history, "data_wait_share", "Waiting for data", "% of the time", scale=100, zero=True
        ),
    )
    return [figure for figure in candidates if figure is not None]


def _learning_curve(
    history: History, baselines: Sequence[Baseline], loss_unit: str
) -> Figure | None:
    """Draws bits per byte (or loss) of training and validation, with xz as reference."""
    key = main_metric([*history.train, *history.evals])
    name, unit = ("Bits per byte", "") if key == "bits_per_byte" else ("Loss", loss_unit)
    logged = column(history.train, key)
    train = condense(logged)
    validation, partial = (column(lines, key) for lines in split_evals(history.evals))
    points = [*train, *partial, *validation]
    levels = [(baseline.name, baseline.bits_per_byte) for baseline in baselines[:1]]
    steps = steps_axis(points)
    y = span([v for _, v in points] + [v for _, v in levels], log=True)
    if y is None or steps is None or not _finite(points):
        return None
    series = (
        *smoothed("train", logged),
        *([Series("validation, part", "part", partial, dots=True)] if partial else []),
        Series("validation", "validation", validation, dots=True),
    )
    curves = {"train": train, "part of the validation text": partial, "validation": validation}
    title = describe(f"{name} by step", curves)
    margin = 104 if partial else 84
    chart = Chart(title, series, steps, y, levels, width=940, height=380, margin=margin)
    views = [_view("", chart, "bpb")]
    first = min((step for step, _ in _finite(points) if step > 0), default=steps.high)
    late = [point for point in points if point[0] >= steps.high / 10]
    close = span([v for _, v in late] + [v for _, v in levels])
    if steps.high > 20 * first and close is not None:
        log_steps = replace(chart, x=replace(steps, low=first, log=True))
        close_up = replace(chart, x=replace(steps, low=steps.high / 10), y=close)
        views = [_view("log steps", log_steps, "bpb-log"), _view("close-up", close_up, "bpb")]
    return Figure("bits_per_byte", name, unit, views, values_json(series, steps))


def _accuracy(history: History) -> Figure | None:
    """Draws accuracy on the targets, for objectives without bits per byte."""
    if main_metric([*history.train, *history.evals]) == "bits_per_byte":
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
    """Draws one column of the training lines; scales tiny values by a power of ten."""
    logged = [(step, scale * value) for step, value in column(history.train, key)]
    points = condense(logged)
    description = describe(f"{title} by step", {"": points})
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
    log_y = span(values, log=True) if log else None
    if log_y is not None and log_y.high > 8 * log_y.low:
        y, unit = log_y, "logarithmic"
    elif zero or min(value for _, value in _finite(points)) >= 0:
        y = Axis(0.0, y.high)
    series = smoothed("", logged) if smooth else (Series("", "train", points),)
    views = [View("", Chart(description, series, x, y).svg(key))]
    return Figure(key, title, unit, views, values_json(series, x))


def _task_curves(history: History) -> list[Figure | None]:
    """Draws each metric of the evaluations, except the loss of a single task, drawn before."""
    tasks = task_metrics(dict.fromkeys(name for line in history.evals for name in line))
    single = len(tasks) == 1
    first = MAX_TASK_METRICS - 1
    shown = [
        (task, name)
        for task, names in tasks.items()
        for name in (names if single else [*names[:first], *names[first:][-1:]])
        if name != "loss"
    ]
    return [_task_curve(history, task, name, index) for index, (task, name) in enumerate(shown)]


def _task_curve(history: History, task: str, name: str, index: int) -> Figure | None:
    scale = 100.0 if is_fraction(name) else 1.0
    validation = [(step, scale * value) for step, value in column(history.evals, name)]
    train = []
    if name == "accuracy":
        train = [(step, scale * value) for step, value in column(history.train, name)]
    x = steps_axis([*column(history.train, "loss"), *validation])
    series: Sequence[Series] = (
        *(smoothed("train", train) if train else ()),
        Series("validation", "validation", validation, dots=True),
    )
    y = span([value for curve in series for _, value in curve.points if curve.style != "raw"])
    if x is None or y is None:
        return None
    words = display_name(name)
    title = f"{task}: {words}" if task else words[:1].upper() + words[1:]
    description = describe(f"{title} by step", {"train": train, "validation": validation})
    key = f"task-{index}"
    views = [View("", Chart(description, series, x, y, margin=84).svg(key))]
    return Figure(key, title, "%" if scale == 100 else "", views, values_json(series, x))


def _view(name: str, chart: Chart, key: str) -> View:
    narrow = replace(chart, width=440, height=330)
    return View(name, chart.svg(key), narrow.svg(f"{key}-narrow"))


def _finite(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if math.isfinite(point[1])]


def steps_axis(points: Sequence[Point]) -> Axis | None:
    """Returns an axis from zero to the last step."""
    return Axis(0.0, max(1.0, max(step for step, _ in points))) if points else None


def smoothed(name: str, points: Sequence[Point]) -> tuple[Series, ...]:
    """Returns a curve; if it has many points, drawn faintly behind its running mean."""
    finite = _finite(points)
    if len(finite) < SMOOTH_FROM:
        return (Series(name, "train", points),)
    mean = condense(running_mean(finite))
    return Series("", "raw", condense(points)), Series(name, "train", mean)


def condense(points: Sequence[Point]) -> list[Point]:
    """Reduces a long curve to a few thousand points, keeping peaks, troughs, gaps and ends.

    Reduces each block of i / FINENESS points at index i to its lowest and highest point: finer than
    the drawing, with linear and with logarithmic steps.
    """
    kept: list[Point] = []
    start = 0
    while start < len(points):
        stop = start + max(1, start // FINENESS)
        block = points[start:stop]
        finite = _finite(block)
        extremes = {min(finite, key=_value), max(finite, key=_value)} if finite else set()
        gap = next((point for point in block if not math.isfinite(point[1])), None)
        kept += sorted({*extremes, gap} if gap else extremes, key=_step)
        start = stop
    return [*kept, points[-1]] if points and kept[-1] != points[-1] else kept


def _step(point: Point) -> float:
    return point[0]


def _value(point: Point) -> float:
    return point[1]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Averages each value over a window of 3 % of its index to either side.

    As the window grows with the index, the steep start is not blurred and the flat end is smooth.
    """
    sums = [0.0, *itertools.accumulate(value for _, value in points)]
    means = []
    for index, (step, _) in enumerate(points):
        reach = round(0.03 * index)
        low, high = index - reach, min(index + reach + 1, len(points))
        means.append((step, (sums[high] - sums[low]) / (high - low)))
    return means


def describe(title: str, curves: Mapping[str, Sequence[Point]]) -> str:
    """Describes a chart for screen readers."""
    parts = []
    for name, points in curves.items():
        if finite := _finite(points):
            (start, first), (end, final) = finite[0], finite[-1]
            low, high = min(map(_value, finite)), max(map(_value, finite))
            parts.append(
                f"{name} from {tick(first)} at step {start:,.0f} to {tick(final)} at step "
                f"{end:,.0f}, between {tick(low)} and {tick(high)}".strip()
            )
    return f"{title}: {'; '.join(parts)}"


def values_json(series: Sequence[Series], steps: Axis) -> Markup:
    """Returns the curves as JSON, thinned for both linear and logarithmic steps."""
    log = replace(steps, low=min(1.0, steps.high / 2), log=True)
    curves = []
    for curve in series:
        if curve.style == "raw":
            continue
        points = _finite(curve.points)
        kept = sorted({*thin(points, steps), *thin([p for p in points if p[0] > 0], log)})
        rounded = [[step, float(f"{value:.4g}")] for step, value in kept]
        curves.append({"name": curve.name, "points": rounded})
    return Markup(json.dumps(curves, separators=(",", ":")).replace("<", "\\u003c"))
