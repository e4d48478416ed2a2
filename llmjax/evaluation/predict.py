"""The verb `predict`: what a fine-tuned model says of rows, one by one as they come."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from llmjax.data.tables.table import Row, Table, read_table
from llmjax.errors import UserError
from llmjax.evaluation.references import References
from llmjax.evaluation.task_evaluation import as_tables, chosen_tasks, rows_at_once
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.tasks.config import ChatTask, TaskConfig, name_of
from llmjax.tasks.prepared import encode
from llmjax.tasks.prepared import predict as predictions
from llmjax.tasks.telling import Telling, telling_so

AT_ONCE = 512
"""Rows that are packed and answered together."""
GIVEN = ("text", "pair", "question", "context", "source", "tokens")
"""Fields of tasks that name the columns of what is given."""
ANSWERS = ("label", "labels", "target", "tags", "answers")
"""Fields that name the column of what is to be told."""


def predict(
    run: str | Path | LanguageModel,
    data: Sequence[str | Path | Table] = (),
    *,
    texts: Sequence[str] = (),
    task: str | None = None,
    batch_size: int | None = None,
    no_answer_threshold: float | None = None,
    beams: int | None = None,
    step: int | None = None,
    dtype: Dtype | None = None,
    mesh: Mesh | MeshConfig | None = None,
) -> Iterator[dict[str, Any]]:
    """Streams a prediction for each row: what it is of, and what the model says.

    Args:
      run: a run folder of tasks, or a model in hand (then step, dtype and mesh are its own).
      data: tables, or names of their files; they need no column of answers, and none is read.
      texts: one row more, of these texts: for each column of what is given, one.
      task: which one; None: the only one.
      batch_size: rows of tokens at once; None: as the run evaluates.
      no_answer_threshold: of a task that finds answers, in place of the run's (see AnswerTask).
      beams: of a task that writes text, in place of the run's (see SequenceTask).
      step: which checkpoint; None for the best or newest (see `load`).
      dtype: what is computed in; None: as trained.
      mesh: the devices to use; None for one device.

    Yields:
      {"row": "file line n", ...}: of a class its label, probability and all probabilities; of a
      number its value; of words their tags; of a question the answer with its place; of a text to
      write the text.

    Raises:
      UserError: no such run, step or task; rows that cannot be read.
    """
    if not data and not texts:
        raise UserError("rows", "there are none", "name a table with --data, or a text with --text")
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    telling = Telling(no_answer_threshold, beams)
    (chosen,) = telling_so(chosen_tasks(lm, task, single=True), telling)
    given = [_spelt(chosen.config, texts)] if texts else []
    size = rows_at_once(lm, batch_size)
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
