"""The figures of the page: learning curves, metrics of tasks, throughput."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from llmjax.evaluation.baselines import Baseline
from llmjax.metrics.names import display_name, is_fraction, task_metrics
from llmjax.reporting.charts import Axis, Chart, Point, Series, span
from llmjax.reporting.format import power
from llmjax.reporting.records import History, column, main_metric
from llmjax.reporting.series import condense, describe, finite, smoothed, steps_axis, values_json
from llmjax.reporting.validation import by_subset, larger_name

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
    views: Sequence[View]
    values: Markup


def figures(
    history: History,
    baselines: Sequence[Baseline],
    *,
    tasks: int = 0,
    whole: float | None = None,
    marks: Sequence[float] = (),
) -> list[Figure]:
    """Draws the figures for which the run has values, the learning curves first.

    Args:
      history: the logged lines.
      baselines: the classical compressors' sizes; the first is a reference level.
      tasks: number of tasks of a fine-tuned run; 0 for a run on text.
      whole: bytes of the validation set; None if unknown.
      marks: steps to mark in the learning curves.
    """
    levels = [(baseline.name, baseline.bits_per_byte) for baseline in baselines[:1]]
    has_bits = main_metric([*history.train, *history.evals]) == "bits_per_byte"
    unit = "nats per token" if has_bits else "nats per target"
    if tasks:
        unit = "loss" if tasks == 1 else "loss (validation: mean of all tasks)"
    candidates = (
        learning_curve(
            history, "bits_per_byte", "Bits per byte", "bits per byte", levels, whole, marks
        )
        if has_bits
        else None,
        learning_curve(history, "loss", "Loss", unit, whole=whole, marks=marks),
        *(_task_curves(history) if tasks else ()),
        None if has_bits or (tasks and history.evals) else _accuracy(history, whole),
        _small(history, "learning_rate", "Learning rate", "learning rate", smooth=False),
        _small(history, "gradient_norm", "Gradient norm", "norm", log=True),
        *(
            _small(history, f"expert_load_{name}", f"Load of {words}", "of the mean", smooth=False)
            for name, words in (("max", "the fullest expert"), ("min", "the emptiest expert"))
        ),
        _small(history, "router_entropy", "Entropy of the router", "nats"),
        _small(history, "expert_dropped_share", "Tokens dropped by experts", "%", scale=100),
        _small(history, "tokens_per_second", "Throughput", "tokens per second", zero=True),
        _small(
            history, "data_wait_share", "Waiting for data", "% of the time", scale=100, zero=True
        ),
    )
    return [figure for figure in candidates if figure is not None]


def learning_curve(
    history: History,
    key: str,
    name: str,
    unit: str,
    levels: Sequence[tuple[str, float]] = (),
    whole: float | None = None,
    marks: Sequence[float] = (),
) -> Figure | None:
    """Draws a column of training and of validation; None if it has no values.

    The validation curve is of one subset of the validation set; evaluations of a larger one are
    marked without a line.

    Args:
      history: the logged lines.
      key: the column.
      name: the title.
      unit: label of the vertical axis.
      levels: (name, value) of dashed reference levels.
      whole: bytes of the validation set; None if unknown.
      marks: steps to mark by a vertical line.
    """
    logged = column(history.train, key)
    train, subsets = condense(logged), by_subset(history.evals)
    validation, larger = (column(lines, key) for lines in (subsets.curve, subsets.larger))
    points = [*train, *validation, *larger]
    steps = steps_axis(points)
    y = span([v for _, v in points] + [v for _, v in levels], log=True)
    if y is None or steps is None or not finite(points):
        return None
    series = (
        *smoothed("train", logged),
        *_validation_series(validation, larger, larger_name(subsets, whole)),
    )
    curves = {"train": train, "validation": validation, "larger validation set": larger}
    title = describe(f"{name} by step", curves)
    label = f"{unit} (log scale)"
    chart = Chart(title, series, steps, y, levels, 476, 330, 88, y_label=label, marks=marks)
    views = [View("", chart.svg(key))]
    first = min((step for step, _ in finite(points) if step > 0), default=steps.high)
    late = [point for point in points if point[0] >= steps.high / 10]
    close = span([v for _, v in late] + [v for _, v in levels])
    if steps.high > 20 * first and close is not None:
        log_x = replace(steps, low=first, log=True)
        log_steps = replace(chart, x=log_x, x_label="step (log scale)")
        close_up = replace(chart, x=replace(steps, low=steps.high / 10), y=close, y_label=unit)
        views = [View("log steps", log_steps.svg(f"{key}-log"))]
        views += [View("last 90 %", close_up.svg(f"{key}-late"))]
    return Figure(key, name, views, values_json(series, steps))


def _validation_series(
    validation: Sequence[Point], larger: Sequence[Point], name: str
) -> Iterator[Series]:
    """Yields the curve on one subset, and the points, of this name, on a larger one."""
    yield Series("validation", "validation", validation, dots=True)
    if larger:
        yield Series(name, "full", larger, line=False)


def _accuracy(history: History, whole: float | None) -> Figure | None:
    """Draws accuracy on the targets, for objectives without bits per byte."""
    return _metric_curve(history, "", "accuracy", "accuracy", whole)


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
    if 0 < (high := max(abs(v) for _, v in finite(points))) < 0.02:
        exponent = math.floor(math.log10(1.05 * high))
        logged = [(step, value / 10.0**exponent) for step, value in logged]
        points = condense(logged)
        unit = f"{unit} ({power(10.0**exponent)})"
        y = span([value for _, value in points]) or y
    log_y = span(values, log=True) if log else None
    if log_y is not None and log_y.high > 8 * log_y.low:
        y, unit = log_y, f"{unit} (log scale)"
    elif zero or min(value for _, value in finite(points)) >= 0:
        y = Axis(0.0, y.high)
    series = smoothed("", logged) if smooth else (Series("", "train", points),)
    views = [View("", Chart(description, series, x, y, width=476, y_label=unit).svg(key))]
    return Figure(key, title, views, values_json(series, x))


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
    return [
        _metric_curve(history, task, name, f"task-{index}")
        for index, (task, name) in enumerate(shown)
    ]


def _metric_curve(
    history: History, task: str, name: str, key: str, whole: float | None = None
) -> Figure | None:
    """Draws a metric of the evaluations; accuracy beside that of the training steps."""
    scale, subsets = 100.0 if is_fraction(name) else 1.0, by_subset(history.evals)
    validation, larger, train = (
        [(step, scale * value) for step, value in column(lines, name)]
        for lines in (subsets.curve, subsets.larger, history.train if name == "accuracy" else ())
    )
    x = steps_axis([*column(history.train, "loss"), *validation, *larger])
    series: Sequence[Series] = (
        *(smoothed("train", train) if train else ()),
        *_validation_series(validation, larger, larger_name(subsets, whole)),
    )
    y = span([value for curve in series for _, value in curve.points if curve.style != "raw"])
    if x is None or y is None:
        return None
    words = display_name(name)
    title = f"{task}: {words}" if task else words[:1].upper() + words[1:]
    curves = {"train": train, "validation": validation, "larger validation set": larger}
    description, unit = (
        describe(f"{title} by step", curves),
        f"{words} (%)" if scale == 100 else words,
    )
    chart = Chart(description, series, x, y, (), 476, 330, 88, y_label=unit)
    views = [View("", chart.svg(key))]
    return Figure(key, title, views, values_json(series, x))
