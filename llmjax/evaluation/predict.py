"""The command `predict`: a fine-tuned model's predictions for rows, one by one as they come."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from llmjax.data.tables.table import Row, Table, read_table
from llmjax.errors import UserError
from llmjax.evaluation.references import References
from llmjax.evaluation.task_evaluation import as_tables, choose_tasks, evaluation_batch_size
from llmjax.inference.language_model import LanguageModel, load
from llmjax.model.compute import Dtype
from llmjax.parallel.mesh import MeshConfig
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.examples import encode
from llmjax.tasks.options import PredictOptions
from llmjax.tasks.predict import predict as task_predictions

GROUP = 512
"""Rows that are packed and predicted together."""


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
    """Streams a prediction for each row.

    Args:
      run: the run folder of a fine-tuned model, or a loaded model (then step, dtype and mesh do not
        apply).
      data: tables, or names of their files; they need no column of targets, and none is read.
      texts: one row more, of these texts: one for each input column.
      task: which one; None: the only one.
      batch_size: rows of tokens at once; None: as the run evaluates.
      no_answer_threshold: in place of the run's (see ExtractiveQATask).
      beams: in place of the run's (see SequenceTask).
      step: which checkpoint; None for the best or newest (see `load`).
      dtype: of the computation; None: as trained.
      mesh: the devices to use; None for one device.

    Yields:
      {"row": "file line n", ...}: a label, its probability and all probabilities; a value; words'
      tags; an answer with its place; or a text.

    Raises:
      UserError: no such run, step or task; rows that cannot be read.
    """
    if not data and not texts:
        raise UserError("rows", "there are none", "name a table with --data, or a text with --text")
    lm = run if isinstance(run, LanguageModel) else load(run, step=step, dtype=dtype, mesh=mesh)
    options = PredictOptions(no_answer_threshold, beams)
    (chosen,) = options.apply(choose_tasks(lm, task, single=True))
    from_texts = [_row_of_texts(chosen.config, texts)] if texts else []
    size = evaluation_batch_size(lm, batch_size)
    references = References(lm, chosen, size)
    streams = (read_table(table) for table in as_tables(data))
    rows = (_without_targets(chosen.config, row) for row in itertools.chain(from_texts, *streams))
    for group in _groups(rows):
        predictions = task_predictions(
            chosen,
            lm.model,
            lm.network_params,
            group,
            references.of(encode(chosen, group, "predict for")),
            batch_size=size,
            mesh=lm.mesh,
        )
        for row, prediction in zip(group, predictions, strict=True):
            yield {"row": row.place, **prediction}


def _without_targets(config: TaskConfig, row: Row) -> Row:
    """The row without what is to be predicted: a test set may hold anything there."""
    hidden = set(config.target_columns) - set(config.input_columns)
    return row._replace(values={name: v for name, v in row.values.items() if name not in hidden})


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while group := list(itertools.islice(stream, GROUP)):
        yield group


def _row_of_texts(config: TaskConfig, texts: Sequence[str]) -> Row:
    """A row of texts from the command line.

    Raises:
      UserError: there are more or fewer than columns, or the task reads no texts.
    """
    columns, name = config.input_columns, name_of(config)
    if not columns:
        chat = ", or talk with it: llmjax chat RUN" if config.uses_chat_template else ""
        fix = f"name a table of them with --data{chat}"
        raise UserError("--text", f"task {name} reads {config.rows_are}, not texts", fix)
    if len(columns) != len(texts):
        reason = f"task {name} reads {len(columns)}: {', '.join(columns)}"
        raise UserError(f"{len(texts)} texts", reason, "give --text once for each")
    return Row("--text", dict(zip(columns, texts, strict=True)))
