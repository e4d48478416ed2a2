"""Curves of several runs in one frame."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmjax.metrics.names import is_fraction, judging_metric, task_title
from llmjax.reporting.charts import Axis, Chart, Point, Series, span
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.records import History, Line, column, last, main_metric
from llmjax.reporting.series import condense, describe, finite, running_mean, values_json
from llmjax.reporting.validation import by_subset
from llmjax.run.config.schema import Config

MAX_LABEL = 9
"""Characters of a run's name at the end of its curve; the legend has all of it."""


@dataclass(frozen=True)
class Curves:
    """The logged lines of a run, with its name and CSS classes on the page."""

    name: str
    style: str
    config: Config
    history: History

    @property
    def tokens_per_step(self) -> float | None:
        """Mean tokens of a training step, if logged."""
        tokens = last(self.history.train, "tokens")
        steps = self.history.train[-1]["step"] if self.history.train else 0
        return tokens / steps if tokens and steps else None

    @property
    def judged(self) -> Sequence[Line]:
        """The lines that may judge the run: of evaluation.tasks or of the validation set."""
        is_tasks = self.config.evaluation.task_of_metric is not None
        return self.history.tasks if is_tasks else self.history.evals

    def judging_metric(self, line: Line) -> str | None:
        """The metric of one of them that does."""
        evaluation = self.config.evaluation
        by_tasks = evaluation.task_of_metric is not None
        return judging_metric(line, evaluation.metric, is_measured_by_tasks=by_tasks)

    def curve(self, metric: str) -> Sequence[Line]:
        """The lines of a metric's curve: of one subset of the validation set, or of
        evaluation.tasks."""
        if any(metric in line for line in self.history.tasks):
            return self.history.tasks
        return by_subset(self.history.evals).curve


def overlays(runs: Sequence[Curves]) -> tuple[list[Figure], str]:
    """Draws each metric of the runs, of validation and of training.

    Returns:
      The figures, and what their horizontal axis measures: tokens if the runs' steps have different
      numbers of them, else steps.
    """
    scales = [run.tokens_per_step for run in runs]
    known = [scale for scale in scales if scale is not None]
    is_text = not any(run.config.tasks for run in runs)
    by_tokens = is_text and len(known) == len(runs) and max(known) > 1.01 * min(known)
    x_label = "tokens" if by_tokens else "step"
    factors = known if by_tokens else [1.0] * len(runs)
    drawn = []
    for key in _keys(runs):
        for kind in ("validation", "train"):
            drawn.append(_overlay(runs, key, kind == "train", x_label, factors))
    return [figure for figure in drawn if figure is not None], x_label


def _keys(runs: Sequence[Curves]) -> Iterable[str]:
    """Returns bits per byte, the metrics by which the runs are judged, and the loss."""
    keys: dict[str, None] = {}
    for run in runs:
        if main_metric([*run.history.train, *run.history.evals]) == "bits_per_byte":
            keys["bits_per_byte"] = None
        for line in run.judged[-1:]:
            if name := run.judging_metric(line):
                keys[name] = None
        for line in run.history.evals[-1:]:
            keys |= dict.fromkeys(name for name in ("accuracy",) if line.get(name) is not None)
    return [*(key for key in keys if key != "loss"), "loss"]


def _overlay(
    runs: Sequence[Curves], key: str, is_train: bool, x_label: str, factors: Sequence[float]
) -> Figure | None:
    """Draws one column of the runs; training curves are running means."""
    scale = 100.0 if is_fraction(key) else 1.0
    series, curves = [], {}
    for run, factor in zip(runs, factors, strict=True):
        lines = run.history.train if is_train else run.curve(key)
        points = finite(_points(lines, key, factor, scale))
        if is_train:
            points = condense(running_mean(points))
        if points:
            series.append(Series(_label(run.name), run.style, points, dots=not is_train))
            curves[run.name] = points
    every = [point for points in curves.values() for point in points]
    log = scale == 1 and all(value > 0 for _, value in every)
    y = span([value for _, value in every], log=log)
    if y is None:
        return None
    x = Axis(0.0, max(1.0, *(step for step, _ in every), 1.0))
    name = task_title(key)
    what = "training, running mean" if is_train else "validation"
    title = f"{name[:1].upper()}{name[1:]}: {what}"
    unit = f"{_unit(runs, key)}{' (%)' if scale == 100 else ''}{' (log scale)' if log else ''}"
    description = describe(f"{title} by {x_label}", curves, x_label)
    chart = Chart(description, series, x, y, (), 476, 330, 88, x_label=x_label, y_label=unit)
    id_ = f"{key.replace('.', '-')}-{'train' if is_train else 'validation'}"
    return Figure(id_, title, [View("", chart.svg(id_))], values_json(series, x))


def _label(name: str) -> str:
    """Shortens a name in its middle: runs of a sweep differ at the end."""
    return name if len(name) <= MAX_LABEL else f"{name[:3]}…{name[4 - MAX_LABEL :]}"


def _points(lines: Sequence[Line], key: str, factor: float, scale: float) -> list[Point]:
    return [(step * factor, scale * value) for step, value in column(lines, key)]


def _unit(runs: Sequence[Curves], key: str) -> str:
    if key != "loss" or any(run.config.tasks for run in runs):
        return task_title(key)
    causal = all(run.config.objective.is_causal for run in runs)
    return "nats per token" if causal else "nats per target"
