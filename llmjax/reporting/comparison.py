"""The page that compares several runs: overlaid curves, best figures, config differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmjax.errors import UserError
from llmjax.metrics.names import display_value, is_cost, task_title
from llmjax.reporting import tiles
from llmjax.reporting.curves import Figure
from llmjax.reporting.format import count, duration, short
from llmjax.reporting.overlay import Curves, overlays
from llmjax.reporting.records import (
    Line,
    finite_number,
    last,
    number,
    read_history,
    section,
    wall_seconds,
)
from llmjax.reporting.settings import value_text
from llmjax.reporting.validation import by_subset, subset_bytes
from llmjax.run import environment as run_environment
from llmjax.run.config.checks import MISSING, value_at, varying_fields
from llmjax.run.config.storage import package_version
from llmjax.run.folder import Run

MAX_RUNS = 16
"""Runs on a page: eight colours, each with a solid and a dashed line."""
COLOURS = 8


@dataclass(frozen=True)
class Result:
    """A validation figure: its value and metric, and where it was measured."""

    value: str
    where: str


@dataclass(frozen=True)
class RunRow:
    """A run of the table; texts, n/a where unknown."""

    name: str
    style: str
    best: Result
    latest: Result
    cells: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """A field in which the configs differ, with the value of each run."""

    name: str
    values: Sequence[str]


@dataclass(frozen=True)
class ComparisonPage:
    """The variables of the template, in the order of the page."""

    name: str
    lede: str
    warnings: Sequence[str]
    legend: Sequence[tuple[str, str]]
    columns: Sequence[str]
    rows: Sequence[RunRow]
    figures: Sequence[Figure]
    x_label: str
    names: Sequence[str]
    differences: Sequence[Difference]
    version: str
    date: datetime


COLUMNS = ("Parameters", "Steps", "Tokens", "Time", "Throughput", "Hardware")


@dataclass(frozen=True)
class ComparedRun(Curves):
    """What is known of a run."""

    environment: Mapping[str, Any]

    @property
    def whole_bytes(self) -> float | None:
        """Bytes of its validation text, if recorded."""
        return finite_number(section(self.environment, "data"), "heldout_bytes")


def make_comparison(runs: Sequence[Run]) -> ComparisonPage:
    """Gathers the page of several runs.

    Raises:
      UserError: there are too many, one is named twice, or one cannot be read.
    """
    compared = _read(runs)
    names = [run.name for run in compared]
    configs = [run.config for run in compared]
    figures, x_label = overlays(compared)
    differences = [
        Difference(name, [_text(value_at(config, name)) for config in configs])
        for name in varying_fields(configs)
    ]
    return ComparisonPage(
        name=f"{len(runs)} runs compared",
        lede=_lede(names),
        warnings=_warnings(compared),
        legend=[(run.name, run.style) for run in compared],
        columns=COLUMNS,
        rows=_rows(compared),
        figures=figures,
        x_label=x_label,
        names=names,
        differences=differences,
        version=package_version(),
        date=datetime.now(UTC),
    )


def _lede(names: Sequence[str]) -> str:
    """Names the runs, unless they are many, and says what the page has."""
    contents = "alidation figures, curves, and the fields of the config in which they differ."
    few = len(names) <= 4
    return f"{', '.join(names[:-1])} and {names[-1]}: v{contents}" if few else f"V{contents}"


def _read(runs: Sequence[Run]) -> list[ComparedRun]:
    if len(runs) > MAX_RUNS:
        raise UserError(f"{len(runs)} runs", f"are more than {MAX_RUNS}", "compare fewer at a time")
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders, strict=True):
        if folders.count(folder) > 1:
            raise UserError(run.folder, "is named twice")
    short_names = [folder.name for folder in folders]
    return [
        ComparedRun(
            name if short_names.count(name) == 1 else str(run.folder),
            f"run{index % COLOURS}{' dashed' if index >= COLOURS else ''}",
            run.config(),
            read_history(run.folder),
            run_environment.read(run.folder / "environment.json"),
        )
        for index, (run, name) in enumerate(zip(runs, short_names, strict=True))
    ]


def _text(value: Any) -> str:
    return "not set" if value is MISSING else value_text(value)


def _rows(runs: Sequence[ComparedRun]) -> list[RunRow]:
    """Returns the runs, the best first; those with another metric after them."""
    order = []
    for position, run in enumerate(runs):
        metric, line = _best(run)
        cost = math.inf
        if line is not None:
            cost = number(line, metric) * (1 if is_cost(metric) else -1)
        order.append((line is None, metric, cost, position))
    return [_row(runs[position]) for *_, position in sorted(order)]


def _metric(run: ComparedRun) -> str:
    """Returns the metric that judges a run; empty if it was not evaluated."""
    names = map(run.judging_metric, reversed(run.judged))
    return next((name for name in names if name), "")


def _best(run: ComparedRun) -> tuple[str, Line | None]:
    """Returns the metric of a run, and its best evaluation on the subset of its curve."""
    metric, curve = _metric(run), by_subset(run.judged).curve
    finite = [line for line in curve if math.isfinite(number(line, metric))]
    if not finite:
        return metric, None
    pick = min if is_cost(metric) else max
    return metric, pick(finite, key=lambda line: number(line, metric))


def _row(run: ComparedRun) -> RunRow:
    metric, best = _best(run)
    subsets, history = by_subset(run.judged), run.history
    widest = reversed(subsets.larger or subsets.curve)
    latest = next((line for line in widest if math.isfinite(number(line, metric))), None)
    tokens, seconds = last(history.train, "tokens"), wall_seconds(history, run.environment)
    cells = (
        tiles.parameters(run.environment),
        count(history.train[-1]["step"]) if history.train else "0",
        "n/a" if tokens is None else short(tokens),
        "n/a" if seconds is None else duration(seconds),
        tiles.throughput(history),
        tiles.hardware(run.environment),
    )
    return RunRow(run.name, run.style, _result(metric, best), _result(metric, latest), cells)


def _result(metric: str, line: Line | None) -> Result:
    if line is None:
        return Result("n/a", "not evaluated")
    where = f"{task_title(metric)}, step {count(line['step'])}"
    size = subset_bytes(line)
    return Result(
        display_value(metric, number(line, metric)),
        where + (f", {count(size)} bytes" if size else ""),
    )


def _warnings(runs: Sequence[ComparedRun]) -> list[str]:
    """Returns why figures may not compare."""
    sentences = []
    metrics = {_metric(run) for run in runs} - {""}
    if len(metrics) > 1:
        names = ", ".join(sorted(task_title(metric) for metric in metrics))
        sentences.append(f"The runs are judged by metrics that do not compare: {names}.")
    sizes = [run.whole_bytes for run in runs]
    curves = [by_subset(run.history.evals).curve for run in runs]
    scored = {subset_bytes(curve[-1]) for curve in curves if curve}
    if len({size for size in sizes if size is not None}) > 1 or len(scored) > 1:
        sentences.append(
            "The runs were evaluated on different validation texts, so that their figures do not "
            "compare exactly: the bytes scored stand beside each figure."
        )
    if len({run.config.tokenizer for run in runs}) > 1:
        sentences.append(
            "The tokenizers differ: losses per token do not compare; bits per byte do."
        )
    unfinished = [run.name for run in runs if not run.history.train]
    if unfinished:
        sentences.append(f"No training step has been logged of {', '.join(unfinished)}.")
    return sentences
