"""Tasks measured while a run trained (evaluation.tasks): their curves, and a table."""

from collections.abc import Sequence

from llmjax.metrics.names import (
    display_name,
    display_value,
    evaluation_task_metrics,
    is_fraction,
    task_title,
)
from llmjax.reporting.charts import Chart, Series, span
from llmjax.reporting.curves import Figure, View
from llmjax.reporting.facts import Fact
from llmjax.reporting.format import count
from llmjax.reporting.records import History, Line, column, finite_number
from llmjax.reporting.series import describe, finite, steps_axis, values_json

MAX_FIGURES = 24
"""Metrics to draw; a group of the harness may have dozens."""


def metric_names(lines: Sequence[Line]) -> list[str]:
    """Returns the metrics that were measured, in the order of their first line."""
    return list(dict.fromkeys(name for line in lines for name in evaluation_task_metrics(line)))


def task_figures(history: History) -> list[Figure]:
    """Draws each metric with lines one standard error above and below, and the level of chance."""
    figures = (
        _figure(history, name, f"measured-{number}")
        for number, name in enumerate(metric_names(history.tasks)[:MAX_FIGURES])
    )
    return [figure for figure in figures if figure is not None]


def _figure(history: History, name: str, key: str) -> Figure | None:
    lines = [line for line in history.tasks if name in line]
    values, errors = column(lines, name), column(lines, f"{name}_stderr")
    largest = max((abs(value) for _, value in finite(values)), default=0.0)
    scale, unit = (100.0, " (%)") if is_fraction(name) and largest <= 1 else (1.0, "")
    pairs = list(zip(values, errors, strict=True))
    high = [(step, scale * (value + error)) for (step, value), (_, error) in pairs]
    low = [(step, scale * (value - error)) for (step, value), (_, error) in pairs]
    curve = [(step, scale * value) for step, value in values]
    chance = finite_number(lines[-1], f"{name.partition('.')[0]}.chance")
    levels = [] if chance is None else [("chance", scale * chance)]
    x = steps_axis([*column(history.train, "loss"), *curve])
    y = span([value for _, value in (*high, *low, *curve, *levels)])
    if x is None or y is None or not finite(curve):
        return None
    words = display_name(name)
    title = f"{task_title(name).removesuffix(words).strip()}: {words}"
    series = (
        Series("", "raw", high),
        Series("", "raw", low),
        Series("", "validation", curve, dots=True),
    )
    description = describe(f"{title} by step", {"": curve})
    chart = Chart(description, series, x, y, levels, 476, 330, 88, y_label=f"{words}{unit}")
    return Figure(key, title, [View("", chart.svg(key))], values_json(series, x))


def task_facts(history: History) -> list[Fact]:
    """Returns the last value of each metric with its standard error."""
    return [_fact(history.tasks, name) for name in metric_names(history.tasks)]


def _fact(lines: Sequence[Line], name: str) -> Fact:
    line = [line for line in lines if name in line][-1]
    task = name.partition(".")[0]
    value, error = finite_number(line, name), finite_number(line, f"{name}_stderr")
    text = "n/a" if value is None else display_value(name, value)
    if value is not None and error is not None:
        text += f" ± {display_value(name, error)}"
    notes = [f"step {count(line['step'])}"]
    if (examples := finite_number(line, f"{name.rpartition('.')[0]}.examples")) is not None:
        notes.append(f"{count(examples)} examples")
    if (chance := finite_number(line, f"{task}.chance")) is not None:
        notes.append(f"chance {display_value('chance', chance)}")
    return Fact(task_title(name), text, ", ".join(notes))
