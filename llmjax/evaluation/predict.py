"""The command `predict`: predictions of a fine-tuned model, streamed row by row."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.data.tables.table import AnyTable, Row, read_table
from llmjax.errors import UserError
from llmjax.evaluation.references import References
from llmjax.evaluation.task_evaluation import as_tables, chosen_tasks, rows_at_once
from llmjax.inference.language_model import LanguageModel, LoadOptions, loaded
from llmjax.run.config.options import keyword_options, make_options
from llmjax.tasks.config import ChatTask, TaskConfig, name_of
from llmjax.tasks.overrides import TaskOverrides, apply_overrides
from llmjax.tasks.prepared import encode
from llmjax.tasks.prepared import predict as predictions

AT_ONCE = 512
"""Rows that are packed and answered together."""
GIVEN = ("text", "pair", "question", "context", "source", "tokens")
"""Fields of tasks that name the columns of what is given."""
ANSWERS = ("label", "labels", "target", "tags", "answers")
"""Fields that name the column of what is to be told."""


@dataclass(frozen=True)
class PredictOptions(TaskOverrides, LoadOptions):
    """Options of predict."""

    data: tuple[AnyTable, ...] = ()
    """Tables: CSV, TSV, JSONL or Parquet files with the columns that the task was trained on; the
    column of answers is not read, and may be missing."""
    text: tuple[str, ...] = ()
    """One more row: its text; of pairs, or a question and its context, give it twice."""
    task: str | None = None
    """Which of the run's tasks; none: the only one."""
    batch_size: int | None = None
    """Rows of tokens at once; none: as the run evaluates."""


@keyword_options("data")
def predict(run: str | Path | LanguageModel, options: PredictOptions) -> Iterator[dict[str, Any]]:
    """Streams a prediction for each row.

    Args:
      run: a run folder of tasks, or a loaded model.
      options: fields of PredictOptions, also as keywords; tables also by the names of their files.

    Yields:
      {"row": "file line n", ...}: of a class its label, probability and all probabilities; of a
      number its value; of words their tags; of a question the answer with its place; of a text to
      write the text.

    Raises:
      UserError: no such run, step or task; rows that cannot be read.
    """
    data, texts = options.data, options.text
    if not data and not texts:
        raise UserError("rows", "there are none", "name a table with --data, or a text with --text")
    lm = loaded(run, options)
    overrides = make_options(TaskOverrides, options, {})
    (chosen,) = apply_overrides(chosen_tasks(lm, options.task, single=True), overrides)
    given = [_spelt(chosen.config, texts)] if texts else []
    size = rows_at_once(lm, options.batch_size)
    references = References(lm, chosen, size)
    streams = (read_table(table) for table in as_tables(data))
    asked = (_without_answers(chosen.config, row) for row in itertools.chain(given, *streams))
    for rows in _groups(asked):
        told = predictions(
            chosen,
            lm.model,
            lm.network_params,
            rows,
            references.of(encode(chosen, rows, "predict for")),
            batch_size=size,
            mesh=lm.mesh,
        )
        for row, one in zip(rows, told, strict=True):
            yield {"row": row.place, **one}


def _without_answers(config: TaskConfig, row: Row) -> Row:
    """The row without what is to be told: a test set may hold anything there."""
    given, told = (
        {getattr(config, name) for name in names if hasattr(config, name)}
        for names in (GIVEN, ANSWERS)
    )
    hidden = told - given
    kept = {name: value for name, value in row.values.items() if name not in hidden}
    return row._replace(values=kept)


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while group := list(itertools.islice(stream, AT_ONCE)):
        yield group


def _spelt(config: TaskConfig, texts: Sequence[str]) -> Row:
    """A row of texts from the command line.

    Raises:
      UserError: there are more or fewer than columns, or the task reads no texts.
    """
    columns = [getattr(config, name) for name in GIVEN if getattr(config, name, None)]
    if not columns:
        chat = isinstance(config, ChatTask)
        reads = "conversations" if chat else "prompts with two answers each"
        talk = ", or talk with it: llmjax chat RUN" if chat else ""
        fix = f"name a table of them with --data{talk}"
        raise UserError("--text", f"task {name_of(config)} reads {reads}, not texts", fix)
    if len(columns) != len(texts):
        raise UserError(
            f"{len(texts)} texts",
            f"task {name_of(config)} is given {len(columns)}: {', '.join(columns)}",
            "give --text once for each",
        )
    return Row("--text", dict(zip(columns, texts, strict=True)))
