"""The verb `evaluate` on a run of tasks: the accepted figures of each, with intervals."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.data.progress import Progress, no_progress
from llmjax.data.tables.table import AnyTable, Table, read_tables
from llmjax.errors import UserError
from llmjax.evaluation.references import References
from llmjax.inference.language_model import LanguageModel
from llmjax.metrics.metric import Metric
from llmjax.run.config.build import ConfigError, build
from llmjax.run.config.overrides import parse
from llmjax.run.folder import Run
from llmjax.run.network import run_tasks
from llmjax.tasks.config import name_of
from llmjax.tasks.findings import HELD_OUT, findings
from llmjax.tasks.overrides import NO_OVERRIDES, TaskOverrides, apply_overrides
from llmjax.tasks.prepared import Answered, answer, encode, read_rows
from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
MOST_LABELS = 12
"""Labels of a confusion matrix that a terminal shows."""


@dataclass(frozen=True)
class TaskEvaluation:
    """What an evaluation of a task found; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      task: which one.
      data: where the rows are from.
      answered: rows, predictions, figures.
      seconds: wall-clock time of reading, encoding, compiling, answering and measuring.
      found: figures, tables and the worst mistakes as plain data.
    """

    run: str
    step: int
    task: str
    data: str
    answered: Answered
    seconds: float
    found: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the report page."""
        about = {"run": self.run, "step": self.step, "task": self.task}
        return {**about, **self.found, "seconds": self.seconds}

    def __str__(self) -> str:
        rows = len(self.answered.rows)
        lines = [f"{self.run} at step {self.step}, task {self.task}, on {self.data}"]
        measures = self.answered.measures
        for figure in measures.metrics if measures else ():
            lines.append(f"  {figure.name:22}{in_words(figure)}")
        if not measures or all(figure.name != "loss" for figure in measures.metrics):
            lines.append(f"  {'loss':22}{self.answered.sums.loss:.4f}")
        lines.append(f"  {'rows':22}{rows:,}")
        lines.append(f"  {'time':22}{self.seconds:.1f} s, {rows / self.seconds:,.1f} rows/s")
        if measures and measures.signature:
            lines.append(f"  {'signature':22}{measures.signature}")
        if measures and "threshold" in measures.tables:
            lines.append(f"  {'best threshold':22}{_threshold(measures.tables['threshold'])}")
        if measures and "confusion" in measures.tables:
            lines += ["", *_confusion(measures.tables["confusion"])]
        return "\n".join(lines)


@dataclass(frozen=True)
class TaskEvaluations:
    """What an evaluation of several tasks found; print it for tables.

    Attributes:
      run: the run folder.
      tasks: one after the other.
    """

    run: str
    tasks: tuple[TaskEvaluation, ...]

    bits_per_byte = None
    bytes = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"run": self.run, "tasks": {one.task: one.to_dict() for one in self.tasks}}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tasks))


def in_words(figure: Metric) -> str:
    """A figure with its interval."""
    return f"{figure.value:.4f}   ({figure.low:.4f} to {figure.high:.4f})"


def evaluate_tasks(
    lm: LanguageModel,
    data: Sequence[str | Path | Table] = (),
    *,
    task: str | None = None,
    batch_size: int | None = None,
    overrides: TaskOverrides = NO_OVERRIDES,
    progress: Progress = no_progress,
) -> TaskEvaluations:
    """Metrics a run's tasks on what they hold out, or one of them on other rows.

    What is measured on the tasks' own rows, told as the run has it, is also kept as
    RUN/measures.json, for the report.

    Args:
      lm: a model in hand.
      data: tables, or names of their files; empty: what each task holds out.
      task: which one; None: all, or with `data` the only one.
      batch_size: rows of tokens at once; None: as the run evaluates.
      overrides: what differs from the run's config.
      progress: told how far things are.

    Raises:
      UserError: no such task, or rows that cannot be read or lack answers; a batch of no rows.
    """
    size = rows_at_once(lm, batch_size)
    found: list[TaskEvaluation] = []
    for one in apply_overrides(chosen_tasks(lm, task, single=bool(data)), overrides):
        name, began = name_of(one.config), time.perf_counter()
        progress(f"Measuring {name}", len(found), None)
        rows = read_tables(as_tables(data)) if data else read_rows(one.config)[1]
        if not rows:
            raise UserError(f"task {name}", "holds out no rows", "name a table with --data")
        examples = References(lm, one, size).of(encode(one, rows, "measure on"))
        told = answer(
            one, lm.model, lm.network_params, rows, examples, batch_size=size, mesh=lm.mesh
        )
        where = ", ".join(map(_named, data)) or HELD_OUT
        seconds = time.perf_counter() - began
        plain = findings(one.config, told, where)
        found.append(TaskEvaluation(lm.config.run_dir, lm.step, name, where, told, seconds, plain))
    if not data and overrides == NO_OVERRIDES:
        _keep(Run.open(lm.config.run_dir), found)
    return TaskEvaluations(lm.config.run_dir, tuple(found))


def _keep(run: Run, found: Sequence[TaskEvaluation]) -> None:
    """Writes measures.json; a folder that is only read gives its figures all the same."""
    try:
        run.keep_measures({one.task: one.to_dict() for one in found})
    except OSError as error:
        reason = error.strerror or error
        log.warning("%s cannot be written (%s): the report lacks these", run.measures, reason)


def rows_at_once(lm: LanguageModel, batch_size: int | None) -> int:
    """The size of a batch as it is asked for, or as the run evaluates.

    Raises:
      UserError: it is not positive.
    """
    if batch_size is None:
        return lm.config.evaluation.batch_size
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    return batch_size


def chosen_tasks(lm: LanguageModel, name: str | None, *, single: bool) -> list[Task]:
    """The tasks of a run, or the one of that name.

    Raises:
      UserError: there is none of that name; or a single one is needed, and there are several.
    """
    run = lm.config.run_dir
    tasks = run_tasks(Run.open(run), lm.config, lm.tokenizer, lm.model.config)
    names = [name_of(task.config) for task in tasks]
    if not tasks:
        raise UserError(run, "is a run without tasks", "train one that has some")
    if name is None and single and len(tasks) > 1:
        raise UserError(run, f"has several tasks: {', '.join(names)}", "choose one with --task")
    if name is not None and name not in names:
        raise UserError(f"task {name}", f"is none of this run's: {', '.join(names)}")
    return [task for task in tasks if name in (None, name_of(task.config))]


def as_tables(data: Sequence[Any]) -> list[Table]:
    """Tables; names of files among them, or what the command line calls a table.

    Raises:
      UserError: something else.
    """
    found: list[Table] = []
    for number, item in enumerate(data):
        name, problems = f"data.{number}", list[str]()
        try:
            value = parse(AnyTable, (str(item),)) if isinstance(item, str | Path) else item
        except ValueError as error:
            fix = "name a .csv, .tsv, .jsonl or .parquet file"
            raise UserError(name, str(error), fix) from error
        table = build(AnyTable, value, name, problems)
        if problems:
            raise ConfigError(problems)
        found.append(table)
    return found


def _named(data: str | Path | Table) -> str:
    """Where rows are from, for a person."""
    if isinstance(data, str | Path):
        return str(data)
    return data.location


def _threshold(table: dict[str, Any]) -> str:
    """Where no answer would best begin to be given; rounded up, so that no row changes sides."""
    return ", ".join(
        f"{math.ceil(1e4 * best['at']) / 1e4:.4f} for {name} ({best['value']:.4f})"
        for name, best in table.items()
    )


def _confusion(table: dict[str, Any]) -> list[str]:
    """Truth in rows, what was told in columns; of many labels the most frequent, most first."""
    every, matrix = list(table["labels"]), table["counts"]
    shown = list(range(len(every)))
    note = []
    if len(every) > MOST_LABELS:
        shown = sorted(shown, key=lambda k: -sum(matrix[k]))[:MOST_LABELS]
        note = [f"  the {MOST_LABELS} most frequent of {len(every):,} labels"]
    labels = [every[k] for k in shown]
    width = max(8, *(len(label) + 1 for label in labels))
    head = "  truth \\ told".ljust(18) + "".join(f"{label[:width]:>{width}}" for label in labels)
    body = [
        f"  {every[k][:15]:16}" + "".join(f"{matrix[k][other]:>{width},}" for other in shown)
        for k in shown
    ]
    return [head, *body, *note]
