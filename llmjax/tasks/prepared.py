"""A task with its examples: read, divided, encoded, shaped for rows."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmjax.data.tables.table import Row, read_tables
from llmjax.errors import UserError
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import ClassificationTask, TaskConfig, name_of
from llmjax.tasks.division import divide
from llmjax.tasks.example import Example, Segment
from llmjax.tasks.opening import find_facts, open_task
from llmjax.tasks.packing import Shape, shape_of
from llmjax.tasks.running import Sums, outputs, score
from llmjax.tasks.task import Facts, Setting, Task
from llmjax.tasks.writing import writer

log = logging.getLogger(__name__)
RARE = 0.05
"""Share of the examples below which a label is called rare."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Rows with what a model says of them.

    Attributes:
      rows: of the table.
      predictions: for each row.
      measures: how good they are; None where rows have no answers.
      sums: of the loss.
    """

    rows: list[Row]
    predictions: list[dict[str, Any]]
    measures: Metrics | None
    sums: Sums


def read_rows(config: TaskConfig) -> tuple[list[Row], list[Row]]:
    """Rows to learn from, and rows to measure on.

    Raises:
      UserError: a table cannot be read, or nothing is left to learn from.
    """
    rows = read_tables(config.train)
    if config.dev:
        return rows, read_tables(config.dev)
    learnt, dev = divide(config, rows)
    if not learnt:
        raise UserError(
            f"task {name_of(config)}", "all rows are held out", "lower dev_fraction, add rows"
        )
    return learnt, dev


def notes(config: TaskConfig, facts: Facts, learnt: int, dev: int) -> list[str]:
    """What a person should know of the examples before training starts.

    Args:
      config: of the task.
      facts: what it found.
      learnt: how many examples it learns from.
      dev: how many rows it is measured on.
    """
    found = [f"task {name_of(config)}: {learnt:,} examples to learn from, {dev:,} to measure on"]
    if facts.counts:
        total = sum(facts.counts)
        shares = zip(facts.labels, facts.counts, strict=True)
        listed = ", ".join(f"{label} {count / total:.1%}" for label, count in list(shares)[:20])
        more = f", and {len(facts.labels) - 20} more" if len(facts.labels) > 20 else ""
        found.append(f"{len(facts.labels)} labels: {listed}{more}")
        rare = [
            label
            for label, count in zip(facts.labels, facts.counts, strict=True)
            if 0 < count < RARE * total / max(1, len(facts.labels) / 2)
        ]
        if rare:
            weighs = isinstance(config, ClassificationTask)
            advice = "; class_weights balanced may help" if weighs else ""
            found.append(f"rare labels: {', '.join(rare[:10])}{advice}")
    return found


def encode(task: Task, rows: Sequence[Row], which: str) -> list[Example]:
    """The examples of rows.

    Raises:
      UserError: a row cannot be used, or none of them gives an example; or the special tokens
        around its texts alone are longer than a row.
    """
    examples, length = task.examples(rows), task.setting.length
    name = f"task {name_of(task.config)}"
    if not examples:
        raise UserError(name, f"no row gives an example to {which}", "check the table")
    longest = max(max(example.length, example.source_length) for example in examples)
    if longest > length:
        reason = f"an example has {longest} tokens at least, more than a row of {length}"
        raise UserError(name, reason, f"set data.length to {longest} or more")
    return examples


def teaching(task: Task, rows: Sequence[Row], examples: Sequence[Example]) -> list[Example]:
    """The examples that have something to learn; of the others it says how many there are.

    Args:
      task: of the examples.
      rows: from which they come.
      examples: of the rows; those whose tokens have targets have nothing to learn where no target
        of a segment has weight, such as where a row is full before the answer begins.

    Raises:
      UserError: none of them has.
    """
    kept = [one for one in examples if one.weight and all(map(_has_target, one.segments))]
    silent = [one for one in examples if not all(map(_has_target, one.segments))]
    if silent:
        count, length = len(silent), task.setting.length
        where = f"{rows[silent[0].row].place}"
        beyond = f"have no target within {length} tokens (the first: {where})"
        if kept:
            log.warning("%d of %d examples %s: left out", count, len(examples), beyond)
        else:
            reason = f"{count} of {len(examples)} examples {beyond}, so nothing is left to learn"
            raise UserError(f"task {name_of(task.config)}", reason, "raise data.length")
    if not kept:
        raise UserError(
            f"task {name_of(task.config)}",
            f"all {len(examples)} examples weigh nothing",
            "check it",
        )
    return kept


def _has_target(segment: Segment) -> bool:
    if segment.targets is None or segment.weights is None:
        return True
    return any(segment.weights)


def shape(task: Task, examples: Sequence[Example]) -> Shape:
    """The shape of the task's rows."""
    setting = task.setting
    return shape_of(examples, setting.length, encodes=setting.model.is_encoder_decoder)


def answer(
    task: Task,
    model: Model,
    params: Params,
    rows: list[Row],
    examples: Sequence[Example],
    *,
    batch_size: int,
    mesh: Mesh | None,
    measured: int | None = None,
) -> Answered:
    """What the model says of rows, and how good that is.

    Args:
      task: what is done.
      model: the model.
      params: the network's parameters.
      rows: what is answered; the loss is of all of them.
      examples: these rows, encoded.
      batch_size: rows of tokens at once.
      mesh: where the parameters live; None for one device.
      measured: answer only the first so many; None: all.

    Raises:
      UserError: a row has no answer to measure by.
    """
    sums = score(task, model, params, examples, shape(task, examples), batch_size, mesh)
    if measured is not None:
        rows = rows[:measured]
        examples = [example for example in examples if example.row < measured]
    if not rows:
        return Answered(rows, [], None, sums)
    told = predict(task, model, params, rows, examples, batch_size=batch_size, mesh=mesh)
    return Answered(rows, told, task.measure(rows, told), sums)


def predict(
    task: Task,
    model: Model,
    params: Params,
    rows: Sequence[Row],
    examples: Sequence[Example],
    *,
    batch_size: int,
    mesh: Mesh | None,
) -> list[dict[str, Any]]:
    """What the model says of each row, given its examples; see `answer`."""
    found = outputs(task, model, params, examples, shape(task, examples), batch_size, mesh)
    write = writer(model, params, task.setting.tokenizer, mesh, batch_size)
    return task.predictions(rows, examples, found, write)


def fingerprint(examples: Sequence[Sequence[Example]]) -> str:
    """A hash of all tasks' encoded examples."""
    digest = hashlib.blake2b(digest_size=16)
    for task in examples:
        digest.update(len(task).to_bytes(8, "little"))
        for example in task:
            for segment in example.segments:
                for part in segment:
                    digest.update(b"|" if part is None else np.asarray(part, np.float64).tobytes())
            digest.update(np.asarray(example.target, np.float32).tobytes())
            digest.update(np.float64(example.weight).tobytes())
    return digest.hexdigest()


def opened(config: TaskConfig, setting: Setting, rows: Sequence[Row]) -> Task:
    """The task, as what it finds in these rows makes it."""
    return open_task(config, setting, find_facts(config, rows))
