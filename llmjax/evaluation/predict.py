"""The command `predict`: streamed predictions of a fine-tuned model."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from llmjax.data.tables.table import AnyTable, Row, read_table
from llmjax.errors import UserError
from llmjax.evaluation.references import References
from llmjax.evaluation.task_evaluation import (
    TaskOverrides,
    apply_overrides,
    as_tables,
    choose_tasks,
    evaluation_batch_size,
)
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.examples import encode
from llmjax.tasks.predict import predict as task_predictions
from llmjax.tasks.task import Task

GROUP = 512
"""Rows packed and predicted together."""


@dataclass(frozen=True)
class PredictOptions(TaskOverrides, LoadOptions):
    """Options of predict."""

    data: tuple[AnyTable, ...] = ()
    """Tables: CSV, TSV, JSONL or Parquet files with the task's input columns; target columns are
    not read, and may be missing."""
    text: tuple[str, ...] = ()
    """One more row as text; repeat it for pairs, or a question and its context."""
    task: str | None = None
    """The task of the run; none: the only one."""
    batch_size: int | None = None
    """Packed rows per batch; none: as in the run's config."""


@keyword_options("data")
def predict(
    run: str | PathLike[str] | LanguageModel, options: PredictOptions
) -> Iterator[dict[str, Any]]:
    """Predict each row of tables and texts.

    Args:
      run: a run folder with tasks, or a loaded model.
      options: fields of PredictOptions, also as keywords; tables also as file names.

    Yields:
      {"row": "file line n", ...} with a label, its probability and all probabilities; a value; tags
      of words; an answer with its position; or a text.

    Raises:
      UserError: no such run, step or task; rows that cannot be read.
    """
    data, texts = options.data, options.text
    if not data and not texts:
        raise UserError("rows", "there are none", "name a table with --data, or a text with --text")
    lm = loaded(run, options)
    overrides = make_options(TaskOverrides, options, {})
    (task,) = apply_overrides(choose_tasks(lm, options.task, single=True), overrides)
    from_texts = [_row_of_texts(task.config, texts)] if texts else []
    streams = (read_table(table) for table in as_tables(data))
    rows = (_without_targets(task.config, row) for row in itertools.chain(from_texts, *streams))
    yield from predict_rows(lm, task, rows, options.batch_size)


def predict_rows(
    lm: LanguageModel, task: Task, rows: Iterable[Row], batch_size: int | None = None
) -> Iterator[dict[str, Any]]:
    """Predict rows with a task of a loaded model, streamed; yields as `predict`.

    Args:
      lm: the model.
      task: one of its tasks.
      rows: with the task's input columns.
      batch_size: packed rows per batch; None: as in the run's config.
    """
    size = evaluation_batch_size(lm, batch_size)
    references = References(lm, task, size)
    for group in _groups(rows):
        predictions = task_predictions(
            task,
            lm.model,
            lm.network_params,
            group,
            references.of(encode(task, group, "predict for")),
            batch_size=size,
            mesh=lm.mesh,
        )
        for row, prediction in zip(group, predictions, strict=True):
            yield {"row": row.place, **prediction}


def _without_targets(config: TaskConfig, row: Row) -> Row:
    """Drop the target columns: in a test set they may contain anything."""
    hidden = set(config.target_columns) - set(config.input_columns)
    return row._replace(values={name: v for name, v in row.values.items() if name not in hidden})


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while group := list(itertools.islice(stream, GROUP)):
        yield group


def _row_of_texts(config: TaskConfig, texts: Sequence[str]) -> Row:
    """Build a row from texts of the command line.

    Raises:
      UserError: the number of texts and columns differs, or the task does not read texts.
    """
    columns, name = config.input_columns, name_of(config)
    if not columns:
        chat = ", or talk with it: llmjax chat RUN" if config.uses_chat_template else ""
        fix = f"name a table with --data{chat}"
        raise UserError("--text", f"task {name} reads {config.rows_are}, not texts", fix)
    if len(columns) != len(texts):
        reason = f"task {name} reads {len(columns)}: {', '.join(columns)}"
        raise UserError(f"{len(texts)} texts", reason, "give --text once for each")
    return Row("--text", dict(zip(columns, texts, strict=True)))
