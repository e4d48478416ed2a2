"""Curves of the tasks' figures over steps."""

from collections.abc import Sequence

from llmjax.metrics.names import in_words, is_fraction, task_metrics
from llmjax.reporting.axes import span
from llmjax.reporting.charts import Chart, Series
from llmjax.reporting.curves import Figure, View, in_sentence, smoothed, steps_axis, values_json
from llmjax.reporting.history import History, column

MOST = 3
"""Figures of each task that are drawn where there are several tasks, its loss among them."""


def task_curves(history: History) -> list[Figure]:
    """A chart for each figure that evaluations logged; a single task's loss is the large curve's.

    Returns:
      The charts, each task's figures in its own order; none of runs without tasks.
    """
    names = dict.fromkeys(name for line in history.evals for name in line)
    tasks = task_metrics(names)
    alone = len(tasks) == 1
    chosen = [
        (task, name)
        for task, own in tasks.items()
        for name in (own if alone else [*own[: MOST - 1], *own[MOST - 1 :][-1:]])
        if name != "loss"
    ]
    found = (_chart(history, task, name, number) for number, (task, name) in enumerate(chosen))
    return [figure for figure in found if figure is not None]


def _chart(history: History, task: str, name: str, number: int) -> Figure | None:
    scale = 100.0 if is_fraction(name) else 1.0
    heldout = [(step, scale * value) for step, value in column(history.evals, name)]
    train = []
    if name == "accuracy":
        train = [(step, scale * value) for step, value in column(history.train, name)]
    x = steps_axis([*column(history.train, "loss"), *heldout])
    drawn: Sequence[Series] = (
        *(smoothed("train", train) if train else ()),
        Series("held-out", "heldout", heldout, dots=True),
    )
    y = span([value for one in drawn for _, value in one.points if one.style != "raw"])
    if x is None or y is None:
        return None
    title = f"{task}: {in_words(name)}" if task else in_words(name)
    title = title[:1].upper() + title[1:] if not task else title
    words = in_sentence(f"{title} by step", {"train": train, "held-out": heldout})
    chart = Chart(words, drawn, x, y, margin=72)
    key = f"task-{number}"
    unit = "%" if scale == 100 else ""
    return Figure(key, title, unit, [View("", chart.svg(key))], values_json(drawn, x))
