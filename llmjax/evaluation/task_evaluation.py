"""The command `evaluate` on a fine-tuned run: the metrics of each task, with intervals."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
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
from llmjax.tasks.predict import VALIDATION_SET, TaskResult, evaluate
from llmjax.tasks.split import read_rows
from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
MAX_LABELS = 12
"""Labels of a confusion matrix shown on a terminal."""


@dataclass(frozen=True)
class TaskOverrides:
    """Task fields that may override the run's config."""

    no_answer_threshold: float | None = None
    """Predict no answer if none_score exceeds this; none: as in the run's config."""
    beams: int | None = None
    """Beams of tasks that generate text; none: as in the run's config."""

    @property
    def values(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_OVERRIDES = TaskOverrides()


@dataclass(frozen=True)
class TaskEvaluation:
    """The evaluation of one task; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      task: name of the task.
      data: the source of the rows.
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
        """Convert to plain data, for JSON and the report page."""
        header = {"run": self.run, "step": self.step, "task": self.task}
        return {**header, **self.details, "seconds": self.seconds}

    def __str__(self) -> str:
        rows, metrics = len(self.result.rows), self.result.metrics
        entries = {
            metric.name: _with_interval(metric) for metric in (metrics.metrics if metrics else ())
        }
        entries.setdefault("loss", f"{self.result.totals.loss:.4f}")
        entries["rows"] = f"{rows:,}"
        entries["time"] = f"{self.seconds:.1f} s, {rows / self.seconds:,.1f} rows/s"
        if metrics and metrics.signature:
            entries["signature"] = metrics.signature
        tables = metrics.tables if metrics else {}
        if "threshold" in tables:
            entries["best threshold"] = _threshold(tables["threshold"])
        title = f"{self.run} at step {self.step}, task {self.task}, on {self.data}"
        lines = [title, *(f"  {name:22}{value}" for name, value in entries.items())]
        lines += [f"  note: {note}" for note in (metrics.notes() if metrics else ())]
        if "confusion" in tables:
            lines += ["", *_confusion(tables["confusion"])]
        return "\n".join(lines)


@dataclass(frozen=True)
class TaskEvaluations:
    """The evaluations of a run's tasks; print them for tables.

    Attributes:
      run: the run folder.
      tasks: one per task.
    """

    run: str
    tasks: tuple[TaskEvaluation, ...]

    bits_per_byte = None
    bytes = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data, for JSON."""
        return {"run": self.run, "tasks": {task.task: task.to_dict() for task in self.tasks}}

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.tasks))


def _with_interval(metric: Metric) -> str:
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
    """Evaluate a run's tasks on their validation sets, or one task on other rows.

    Results on the validation sets without overrides are also stored as RUN/measures.json, for the
    report.

    Args:
      lm: a loaded model.
      data: tables, or file names; empty: each task's validation set.
      task: name of the task; None: all, or with `data` the only one.
      batch_size: packed rows per batch; None: as in the run's config.
      overrides: changes to the run's config.
      progress: called with the progress.

    Raises:
      UserError: no such task, rows that cannot be read or lack targets, or a batch size below 1.
    """
    size = evaluation_batch_size(lm, batch_size)
    evaluations: list[TaskEvaluation] = []
    for chosen in apply_overrides(choose_tasks(lm, task, single=bool(data)), overrides):
        start = time.perf_counter()
        progress(f"Evaluating {chosen.name}", 0, None)
        rows = read_tables(as_tables(data)) if data else read_rows(chosen.config)[1]
        if not rows:
            reason, fix = "has no validation set", "name a table with --data"
            raise UserError(f"task {chosen.name}", reason, fix)
        examples = References(lm, chosen, size).of(encode(chosen, rows, "evaluate"))
        result = evaluate(
            chosen, lm.model, lm.network_params, rows, examples, batch_size=size, mesh=lm.mesh
        )
        source = ", ".join(map(_source_name, data)) or VALIDATION_SET
        seconds = time.perf_counter() - start
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
    if not data and not overrides.values:
        _store(Run.open(lm.config.run_dir), evaluations)
    return TaskEvaluations(lm.config.run_dir, tuple(evaluations))


def _store(run: Run, evaluations: Sequence[TaskEvaluation]) -> None:
    """Write measures.json; only warn if the folder is read-only."""
    try:
        run.keep_measures({result.task: result.to_dict() for result in evaluations})
    except OSError as error:
        reason = error.strerror or error
        log.warning("%s cannot be written (%s): the report will lack it", run.measures, reason)


def evaluation_batch_size(lm: LanguageModel, batch_size: int | None) -> int:
    """Return the requested batch size, or that of the run's config.

    Raises:
      UserError: it is not positive.
    """
    if batch_size is None:
        return lm.config.evaluation.batch_size
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    return batch_size


def choose_tasks(lm: LanguageModel, name: str | None, *, single: bool) -> list[Task]:
    """Return the tasks of a run, or the one of that name.

    Raises:
      UserError: there is no such task; or a single one is needed, and there are several.
    """
    run = lm.config.run_dir
    tasks = run_tasks(Run.open(run), lm.config, lm.tokenizer, lm.model.config)
    names = [task.name for task in tasks]
    if not tasks:
        raise UserError(run, "is a run without tasks", "train one that has some")
    if name is None and single and len(tasks) > 1:
        raise UserError(run, f"has several tasks: {', '.join(names)}", "choose one with --task")
    if name is not None and name not in names:
        raise UserError(f"task {name}", f"is not one of this run's: {', '.join(names)}")
    return [task for task in tasks if name in (None, task.name)]


def apply_overrides(tasks: Sequence[Task], overrides: TaskOverrides) -> list[Task]:
    """Apply to each task the overrides that it has fields for.

    Raises:
      UserError: no task has a field, or a value is out of range.
    """
    if overrides.beams is not None and overrides.beams < 1:
        raise UserError(f"beams {overrides.beams}", "is not positive")
    if overrides.no_answer_threshold is not None and math.isnan(overrides.no_answer_threshold):
        raise UserError("no_answer_threshold", "is not a number")
    for name in overrides.values:
        if not any(hasattr(task.config, name) for task in tasks):
            names = ", ".join(task.name for task in tasks)
            raise UserError(name, f"does not apply to the task {names}", "leave it out")
    return [_replaced(task, overrides) for task in tasks]


def _replaced(task: Task, overrides: TaskOverrides) -> Task:
    names = {field.name for field in fields(task.config)}
    changes = {name: value for name, value in overrides.values.items() if name in names}
    if not changes:
        return task
    return replace(task.config, **changes).open(task.context, task.metadata)


def as_tables(data: Sequence[Any]) -> list[Table]:
    """Convert file names and table specifications of the command line to tables.

    Raises:
      UserError: an item is neither, nor a table.
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


def _source_name(data: str | Path | Table) -> str:
    if isinstance(data, str | Path):
        return str(data)
    return data.location


def _threshold(table: dict[str, Any]) -> str:
    """Format the best thresholds, rounded up so that no row changes sides."""
    return ", ".join(
        f"{math.ceil(1e4 * best['at']) / 1e4:.4f} for {name} ({best['value']:.4f})"
        for name, best in table.items()
    )


def _confusion(table: dict[str, Any]) -> list[str]:
    """Format a confusion matrix: true labels in rows, predicted in columns; if large, its top."""
    all_labels, matrix = list(table["labels"]), table["counts"]
    shown = list(range(len(all_labels)))
    note = []
    if len(all_labels) > MAX_LABELS:
        shown = sorted(shown, key=lambda k: -sum(matrix[k]))[:MAX_LABELS]
        note = [f"  the {MAX_LABELS} most frequent of {len(all_labels):,} labels"]
    labels = [all_labels[k] for k in shown]
    width = max(8, *(len(label) + 1 for label in labels))
    head = "  true \\ predicted".ljust(18) + "".join(
        f"{label[:width]:>{width}}" for label in labels
    )
    body = [
        f"  {all_labels[k][:15]:16}" + "".join(f"{matrix[k][column]:>{width},}" for column in shown)
        for k in shown
    ]
    return [head, *body, *note]
