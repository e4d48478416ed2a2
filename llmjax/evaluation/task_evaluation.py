"""The command `evaluate` on a fine-tuned run: the accepted metrics of each task, with intervals."""

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
from llmjax.run.parameters import run_tasks
from llmjax.tasks.examples import encode
from llmjax.tasks.overrides import NO_OVERRIDES, TaskOverrides, apply_overrides
from llmjax.tasks.predict import VALIDATION_SET, TaskResult, evaluate
from llmjax.tasks.split import read_rows
from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
MOST_LABELS = 12
"""Labels of a confusion matrix that a terminal shows."""


@dataclass(frozen=True)
class TaskEvaluation:
    """The evaluation of one task; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      task: its name.
      data: where the rows are from.
      result: rows, predictions, metrics.
      seconds: wall-clock time of reading, encoding, compiling, predicting and evaluating.
      details: metrics, tables and the worst mistakes as plain data.
    """

    run: str
    step: int
    task: str
    data: str
    result: TaskResult
    seconds: float
    details: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the report page."""
        about = {"run": self.run, "step": self.step, "task": self.task}
        return {**about, **self.details, "seconds": self.seconds}

    def __str__(self) -> str:
        rows, metrics = len(self.result.rows), self.result.metrics
        fields = {metric.name: in_words(metric) for metric in (metrics.metrics if metrics else ())}
        fields.setdefault("loss", f"{self.result.totals.loss:.4f}")
        fields["rows"] = f"{rows:,}"
        fields["time"] = f"{self.seconds:.1f} s, {rows / self.seconds:,.1f} rows/s"
        if metrics and metrics.signature:
            fields["signature"] = metrics.signature
        tables = metrics.tables if metrics else {}
        if "threshold" in tables:
            fields["best threshold"] = _threshold(tables["threshold"])
        title = f"{self.run} at step {self.step}, task {self.task}, on {self.data}"
        lines = [title, *(f"  {name:22}{value}" for name, value in fields.items())]
        if "confusion" in tables:
            lines += ["", *_confusion(tables["confusion"])]
        return "\n".join(lines)


@dataclass(frozen=True)
class TaskEvaluations:
    """The evaluations of a run's tasks; print them for tables.

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
        return {"run": self.run, "tasks": {each.task: each.to_dict() for each in self.tasks}}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tasks))


def in_words(metric: Metric) -> str:
    """A metric with its interval."""
    return f"{metric.value:.4f}   ({metric.low:.4f} to {metric.high:.4f})"


def evaluate_tasks(
    lm: LanguageModel,
    data: Sequence[str | Path | Table] = (),
    *,
    task: str | None = None,
    batch_size: int | None = None,
    overrides: TaskOverrides = NO_OVERRIDES,
    progress: Progress = no_progress,
) -> TaskEvaluations:
    """Evaluates a run's tasks on their validation sets, or one of them on other rows.

    What the validation sets give without overrides is also stored as RUN/measures.json, for the
    report.

    Args:
      lm: a loaded model.
      data: tables, or names of their files; empty: each task's validation set.
      task: which one; None: all, or with `data` the only one.
      batch_size: rows of tokens at once; None: as the run evaluates.
      overrides: what differs from the run's config.
      progress: receives how far things are.

    Raises:
      UserError: no such task, or rows that cannot be read or lack targets; a batch of no rows.
    """
    size = evaluation_batch_size(lm, batch_size)
    evaluations: list[TaskEvaluation] = []
    for chosen in apply_overrides(choose_tasks(lm, task, single=bool(data)), overrides):
        began = time.perf_counter()
        progress(f"Evaluating {chosen.name}", len(evaluations), None)
        rows = read_tables(as_tables(data)) if data else read_rows(chosen.config)[1]
        if not rows:
            reason, fix = "has no validation set", "name a table with --data"
            raise UserError(f"task {chosen.name}", reason, fix)
        examples = References(lm, chosen, size).of(encode(chosen, rows, "evaluate"))
        result = evaluate(
            chosen, lm.model, lm.network_params, rows, examples, batch_size=size, mesh=lm.mesh
        )
        source = ", ".join(map(_named, data)) or VALIDATION_SET
        seconds = time.perf_counter() - began
        evaluations.append(
            TaskEvaluation(
                lm.config.run_dir,
                lm.step,
                chosen.name,
                source,
                result,
                seconds,
                result.to_dict(chosen.config, source),
            )
        )
    if not data and not overrides.given:
        _store(Run.open(lm.config.run_dir), evaluations)
    return TaskEvaluations(lm.config.run_dir, tuple(evaluations))


def _store(run: Run, evaluations: Sequence[TaskEvaluation]) -> None:
    """Writes measures.json; a read-only folder gives its metrics all the same."""
    try:
        run.keep_measures({each.task: each.to_dict() for each in evaluations})
    except OSError as error:
        reason = error.strerror or error
        log.warning("%s cannot be written (%s): the report lacks these", run.measures, reason)


def evaluation_batch_size(lm: LanguageModel, batch_size: int | None) -> int:
    """The batch size that is asked for, or that of the run's evaluations.

    Raises:
      UserError: it is not positive.
    """
    if batch_size is None:
        return lm.config.evaluation.batch_size
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    return batch_size


def choose_tasks(lm: LanguageModel, name: str | None, *, single: bool) -> list[Task]:
    """The tasks of a run, or the one of that name.

    Raises:
      UserError: there is none of that name; or a single one is needed, and there are several.
    """
    run = lm.config.run_dir
    tasks = run_tasks(Run.open(run), lm.config, lm.tokenizer, lm.model.config)
    names = [task.name for task in tasks]
    if not tasks:
        raise UserError(run, "is a run without tasks", "train one that has some")
    if name is None and single and len(tasks) > 1:
        raise UserError(run, f"has several tasks: {', '.join(names)}", "choose one with --task")
    if name is not None and name not in names:
        raise UserError(f"task {name}", f"is none of this run's: {', '.join(names)}")
    return [task for task in tasks if name in (None, task.name)]


def as_tables(data: Sequence[Any]) -> list[Table]:
    """Tables; names of files among them, or what the command line calls a table.

    Raises:
      UserError: something else.
    """
    tables: list[Table] = []
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
        tables.append(table)
    return tables


def _named(data: str | Path | Table) -> str:
    """Where rows are from, for a person."""
    if isinstance(data, str | Path):
        return str(data)
    return data.location


def _threshold(table: dict[str, Any]) -> str:
    """The thresholds with the best metrics; rounded up, so that no row changes sides."""
    return ", ".join(
        f"{math.ceil(1e4 * best['at']) / 1e4:.4f} for {name} ({best['value']:.4f})"
        for name, best in table.items()
    )


def _confusion(table: dict[str, Any]) -> list[str]:
    """True labels in rows, predicted ones in columns; of many labels the most frequent."""
    every, matrix = list(table["labels"]), table["counts"]
    shown = list(range(len(every)))
    note = []
    if len(every) > MOST_LABELS:
        shown = sorted(shown, key=lambda k: -sum(matrix[k]))[:MOST_LABELS]
        note = [f"  the {MOST_LABELS} most frequent of {len(every):,} labels"]
    labels = [every[k] for k in shown]
    width = max(8, *(len(label) + 1 for label in labels))
    head = "  true \\ predicted".ljust(18) + "".join(
        f"{label[:width]:>{width}}" for label in labels
    )
    body = [
        f"  {every[k][:15]:16}" + "".join(f"{matrix[k][other]:>{width},}" for other in shown)
        for k in shown
    ]
    return [head, *body, *note]
