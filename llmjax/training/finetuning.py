"""Fine-tuning: the workload of one task or several, each with its examples."""

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
from llmjax.data.tokenizers.folder import add_chat_template
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
class TaskData:
    """A task with its training and validation sets.

    Attributes:
      task: the task.
      validation_rows: the validation set as rows of a table.
      validation_examples: the same rows, encoded.
      train_examples: the training set, encoded.
      shape: the shape of a packed row of training examples.
    """

    task: Task
    validation_rows: list[Row]
    validation_examples: list[Example]
    train_examples: list[Example]
    shape: RowShape

    @property
    def name(self) -> str:
        return name_of(self.task.config)


@dataclass(frozen=True, eq=False)
class Finetuning:
    """Tasks that take turns, a step each."""

    config: Config
    model: Model
    tasks: tuple[TaskData, ...]

    is_finite = True

    @property
    def has_lm_head(self) -> bool:
        return any(data.shape.per_token and data.task.head is None for data in self.tasks)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([data.train_examples for data in self.tasks])

    @cached_property
    def steps_per_epoch(self) -> float:
        return self._feed.epoch_steps()

    def epochs(self, step: int) -> float:
        return step / max(self.steps_per_epoch, 1e-9)

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        return tuple(self._loss(data.task) for data in self.tasks)

    def feed(self) -> Feed:
        return self._feed

    def evaluates_subset(self, metric: str | None) -> bool:
        limits = [data.task.config.eval_limit for data in self.tasks]
        return metric not in (None, "loss") and any(limit is not None for limit in limits)

    def evaluate(self, params: Tree, mesh: Mesh, full: bool) -> EvalResult | None:
        """Evaluates each task. With several, metrics are prefixed with the task's name, and the
        loss is the mean of theirs."""
        metrics: dict[str, float | None] = {"bits_per_byte": None}
        larger: dict[str, bool] = {}
        details: dict[str, Any] = {}
        losses: list[float] = []
        for data in self.tasks:
            if not data.validation_rows:
                continue
            prefix = f"{data.name}." if len(self.tasks) > 1 else ""
            result = evaluate(
                data.task,
                self.model,
                params,
                data.validation_rows,
                data.validation_examples,
                batch_size=self.config.evaluation.batch_size,
                mesh=mesh,
                limit=None if full else data.task.config.eval_limit,
            )
            losses.append(result.totals.loss)
            metrics[f"{prefix}loss"] = result.totals.loss
            for metric in result.metrics.metrics if result.metrics else ():
                metrics[prefix + metric.name] = metric.value
                larger[prefix + metric.name] = metric.larger_is_better
            metrics[f"{prefix}examples"] = len(data.validation_rows)
            all_rows = len(result.rows) == len(data.validation_rows)
            which = (
                VALIDATION_SET
                if all_rows
                else f"the first {len(result.rows):,} rows of {VALIDATION_SET}"
            )
            details[data.name] = result.to_dict(data.task.config, which)
        if not losses:
            return None
        return EvalResult(sum(losses) / len(losses), metrics, larger, details)

    def data_summary(self) -> dict[str, Any]:
        return {
            data.name: {
                "kind": data.task.config.kind,
                "train_examples": len(data.train_examples),
                "train_tokens": sum(example.length for example in data.train_examples),
                "heldout_rows": len(data.validation_rows),
                "labels": dict(
                    zip(data.task.metadata.labels, data.task.metadata.counts, strict=True)
                ),
            }
            for data in self.tasks
        }

    def headline(self) -> str:
        lines: list[str] = []
        for data in self.tasks:
            sizes = len(data.train_examples), len(data.validation_rows)
            lines += describe(data.task.config, data.task.metadata, *sizes)
        return "\n".join(lines)

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Finetuning":
        """Adds the reference log-likelihoods of preference pairs, by the untrained model."""
        tasks = []
        for data in self.tasks:
            if data.task.config.uses_initial_model:
                metadata = data.task.reference(
                    self.model,
                    params,
                    [*data.train_examples, *data.validation_examples],
                    batch_size=self.config.evaluation.batch_size,
                    mesh=mesh,
                )
                data = _with_references(data, metadata)
            tasks.append(data)
        unchanged = all(new is old for new, old in zip(tasks, self.tasks, strict=True))
        return self if unchanged else replace(self, tasks=tuple(tasks))

    def write_metadata(self, run: Run) -> None:
        """Writes the tasks' metadata, references included, to tasks.json."""
        metadata = metadata_json({data.name: data.task.metadata for data in self.tasks})
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
        sources = []
        for data in self.tasks:
            task = data.task.config
            sources.append(Source(data.train_examples, data.shape, task.weight, task.repack))
        return TaskFeed(sources, self.config.data.batch_size, self.config.seed)


def prepare_tasks(
    config: Config, context: TaskContext, rows: Sequence[tuple[list[Row], list[Row]]]
) -> tuple[TaskData, ...]:
    """Opens the tasks and encodes their examples.

    Args:
      config: the run's config.
      context: what the tasks are opened with.
      rows: the training and the validation rows of each task.

    Raises:
      UserError: a row cannot be used, a task does not fit the model, or evaluation.metric is not
        measured.
    """
    tasks = []
    for task_config, (train_rows, dev_rows) in zip(config.tasks, rows, strict=True):
        task = task_config.open(context, task_config.find_metadata(train_rows))
        examples = trainable(task, train_rows, encode(task, train_rows, "train on"))
        require_targets(task_config, train_rows, dev_rows)
        dev_examples = encode(task, dev_rows, "evaluate") if dev_rows else []
        if dev_examples:
            # Raises if there is no target at all; the examples all stay, one for each row.
            trainable(task, dev_rows, dev_examples)
        tasks.append(TaskData(task, dev_rows, dev_examples, examples, row_shape(task, examples)))
    _check_measured(config, tasks)
    return tuple(tasks)


def _check_measured(config: Config, tasks: Sequence[TaskData]) -> None:
    """Checks that a task with a validation set measures evaluation.metric."""
    metric, patience = config.evaluation.metric, config.evaluation.patience
    if config.evaluation.task_of_metric is not None:
        return  # one of evaluation.tasks measures it
    measured = [(data.task.config, data.task.metadata) for data in tasks if data.validation_rows]
    if measured:
        check_metric(metric, measured, several=len(tasks) > 1)
    elif metric is not None or patience:
        setting = f"metric {metric}" if metric is not None else f"patience {patience}"
        raise UserError(
            f"evaluation.{setting}",
            "no task has a validation set",
            "name a task's dev tables, raise its dev_fraction, or leave metric and patience out",
        )


def with_stored_references(tasks: Sequence[TaskData], run: Run) -> tuple[TaskData, ...]:
    """Adds the reference log-likelihoods stored in the run, if any."""
    if not run.tasks.is_file() or not any(data.task.config.uses_initial_model for data in tasks):
        return tuple(tasks)
    metadata = read_metadata(run.tasks, [data.name for data in tasks])
    return tuple(map(_with_references, tasks, metadata))


def _with_references(data: TaskData, stored: TaskMetadata) -> TaskData:
    task = data.task
    if not task.config.uses_initial_model:
        return data
    metadata = replace(task.metadata, references=stored.references)
    task = task.config.open(task.context, metadata)
    return replace(
        data,
        task=task,
        validation_examples=task.with_references(data.validation_examples),
        train_examples=task.with_references(data.train_examples),
    )


def with_template(tokenizer: Tokenizer, config: Config, run: Run) -> Tokenizer:
    """The run's tokenizer, given a plain chat template if a task needs one and it has none.

    Raises:
      UserError: the run folder cannot be written.
    """
    chats = any(task.uses_chat_template for task in config.tasks)
    if not chats or tokenizer.chat_template is not None:
        return tokenizer
    add_chat_template(run.tokenizer, PLAIN)
    return load_tokenizer(run.tokenizer)
