"""Fine-tuning: examples of one task or several, each with its head; what is kept of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from llmjax.data.batch import Batch
from llmjax.data.loader import Feed
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.folder import keep_chat_template
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.model.model import Model
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.state import Tree
from llmjax.step import LossFunction
from llmjax.storage.writing import write_atomically
from llmjax.tasks.config import check_metric, name_of
from llmjax.tasks.conversations import PLAIN
from llmjax.tasks.examples import Example, encode, fingerprint, trainable
from llmjax.tasks.feed import Source, TaskFeed
from llmjax.tasks.metadata import TaskMetadata, metadata_json, read_metadata
from llmjax.tasks.packing import RowShape
from llmjax.tasks.predict import VALIDATION_SET, evaluate, row_shape
from llmjax.tasks.split import describe, require_targets
from llmjax.tasks.task import Task, TaskContext
from llmjax.training.workload import EvalResult


@dataclass(frozen=True, eq=False)
class Part:
    """A task with its examples.

    Attributes:
      task: what is done with them.
      rows: what it is measured on.
      heldout: these rows, encoded.
      train_set: what it is trained on.
      shape: of the rows of tokens of that.
    """

    task: Task
    rows: list[Row]
    heldout: list[Example]
    train_set: list[Example]
    shape: RowShape

    @property
    def name(self) -> str:
        return name_of(self.task.config)


@dataclass(frozen=True, eq=False)
class Finetuning:
    """Tasks that take turns."""

    config: Config
    model: Model
    parts: tuple[Part, ...]

    is_finite = True

    @property
    def has_lm_head(self) -> bool:
        return any(part.shape.per_token and part.task.head is None for part in self.parts)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([part.train_set for part in self.parts])

    @cached_property
    def steps_per_epoch(self) -> float:
        return self._feed.epoch_steps()

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        return tuple(self._loss(part.task) for part in self.parts)

    def feed(self) -> Feed:
        return self._feed

    def evaluates_part(self, metric: str | None) -> bool:
        limits = [part.task.config.eval_limit for part in self.parts]
        return metric not in (None, "loss") and any(limit is not None for limit in limits)

    def evaluate(self, params: Tree, mesh: Mesh, whole: bool) -> EvalResult | None:
        """Each task's figures; with several tasks under their names, the loss as their mean."""
        figures: dict[str, float | None] = {"bits_per_byte": None}
        larger: dict[str, bool] = {}
        details: dict[str, Any] = {}
        losses: list[float] = []
        for part in self.parts:
            if not part.rows:
                continue
            prefix = f"{part.name}." if len(self.parts) > 1 else ""
            result = evaluate(
                part.task,
                self.model,
                params,
                part.rows,
                part.heldout,
                batch_size=self.config.evaluation.batch_size,
                mesh=mesh,
                limit=None if whole else part.task.config.eval_limit,
            )
            losses.append(result.totals.loss)
            figures[f"{prefix}loss"] = result.totals.loss
            for metric in result.metrics.metrics if result.metrics else ():
                figures[prefix + metric.name] = metric.value
                larger[prefix + metric.name] = metric.larger_is_better
            figures[f"{prefix}examples"] = len(part.rows)
            all_rows = len(result.rows) == len(part.rows)
            which = (
                VALIDATION_SET
                if all_rows
                else f"the first {len(result.rows):,} rows of {VALIDATION_SET}"
            )
            details[part.name] = result.to_dict(part.task.config, which)
        if not losses:
            return None
        return EvalResult(sum(losses) / len(losses), figures, larger, details)

    def data_facts(self) -> dict[str, Any]:
        return {
            part.name: {
                "kind": part.task.config.kind,
                "train_examples": len(part.train_set),
                "train_tokens": sum(example.length for example in part.train_set),
                "heldout_rows": len(part.rows),
                "labels": dict(
                    zip(part.task.metadata.labels, part.task.metadata.counts, strict=True)
                ),
            }
            for part in self.parts
        }

    def headline(self) -> str:
        lines = [
            note
            for part in self.parts
            for note in describe(
                part.task.config, part.task.metadata, len(part.train_set), len(part.rows)
            )
        ]
        return "\n".join(lines)

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Finetuning":
        """With the references of pairs of answers: their likelihoods by the untrained model."""
        parts = []
        for part in self.parts:
            if part.task.config.uses_initial_model:
                metadata = part.task.reference(
                    self.model,
                    params,
                    [*part.train_set, *part.heldout],
                    batch_size=self.config.evaluation.batch_size,
                    mesh=mesh,
                )
                part = _with_references(part, metadata)
            parts.append(part)
        unchanged = all(new is old for new, old in zip(parts, self.parts, strict=True))
        return self if unchanged else replace(self, parts=tuple(parts))

    def write_metadata(self, run: Run) -> None:
        """Writes what the tasks found in their examples, references included, to the run."""
        metadata = metadata_json({part.name: part.task.metadata for part in self.parts})
        try:
            write_atomically(run.tasks, metadata)
        except OSError as error:
            raise UserError(run.tasks, f"cannot be written: {error.strerror}") from error

    def _loss(self, task: Task) -> LossFunction:
        has_dropout = self.model.compute.dropout > 0

        def loss(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
            return task.loss(self.model, params, batch, key if has_dropout else None)

        return loss

    @cached_property
    def _feed(self) -> TaskFeed:
        return TaskFeed(
            [
                Source(part.train_set, part.shape, part.task.config.weight, part.task.config.repack)
                for part in self.parts
            ],
            self.config.data.batch_size,
            self.config.seed,
        )


def prepare_tasks(
    config: Config, context: TaskContext, rows: Sequence[tuple[list[Row], list[Row]]]
) -> tuple[Part, ...]:
    """The tasks with their examples.

    Args:
      config: of the run.
      context: of the tasks.
      rows: of each, the training and the validation set.

    Raises:
      UserError: a row cannot be used, a task does not suit the model, or the figure to go by is not
        measured.
    """
    parts = []
    for one, (train_rows, dev_rows) in zip(config.tasks, rows, strict=True):
        task = one.open(context, one.find_metadata(train_rows))
        examples = trainable(task, train_rows, encode(task, train_rows, "train on"))
        require_targets(one, train_rows, dev_rows)
        heldout = encode(task, dev_rows, "evaluate") if dev_rows else []
        if heldout:
            # All stay, for each belongs to a row; but none of them may count.
            trainable(task, dev_rows, heldout)
        parts.append(Part(task, dev_rows, heldout, examples, row_shape(task, examples)))
    _check_measured(config, parts)
    return tuple(parts)


def _check_measured(config: Config, parts: Sequence[Part]) -> None:
    """Checks that the figure to go by is measured, of some task that holds something out."""
    metric, patience = config.evaluation.metric, config.evaluation.patience
    measured = [(part.task.config, part.task.metadata) for part in parts if part.rows]
    if measured:
        check_metric(metric, measured, several=len(parts) > 1)
    elif metric is not None or patience:
        setting = f"metric {metric}" if metric is not None else f"patience {patience}"
        raise UserError(
            f"evaluation.{setting}",
            "no task holds anything out to measure",
            "name a task's dev tables, raise its dev_fraction, or leave metric and patience out",
        )


def with_stored_references(parts: Sequence[Part], run: Run) -> tuple[Part, ...]:
    """The parts with the references that the run kept, where it did."""
    if not run.tasks.is_file() or not any(part.task.config.uses_initial_model for part in parts):
        return tuple(parts)
    metadata = read_metadata(run.tasks, [part.name for part in parts])
    return tuple(map(_with_references, parts, metadata))


def _with_references(part: Part, stored: TaskMetadata) -> Part:
    task = part.task
    if not task.config.uses_initial_model:
        return part
    metadata = replace(task.metadata, references=stored.references)
    again = task.config.open(task.context, metadata)
    heldout, train_set = again.with_references(part.heldout), again.with_references(part.train_set)
    return replace(part, task=again, heldout=heldout, train_set=train_set)


def with_template(tokenizer: Tokenizer, config: Config, run: Run) -> Tokenizer:
    """The run's tokenizer; with a template, kept beside it, where the run trains on conversations.

    Raises:
      UserError: the run's folder cannot be written.
    """
    chats = any(task.uses_chat_template for task in config.tasks)
    if not chats or tokenizer.chat_template is not None:
        return tokenizer
    keep_chat_template(run.tokenizer, PLAIN)
    return load_tokenizer(run.tokenizer)
