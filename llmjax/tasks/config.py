"""What all tasks' configs have in common.

A task's config class answers everything about the task that needs no model: its columns, its
metrics, what it has to know of its examples. With a model, `open` makes it a `task.Task`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmjax.data.tables.table import AnyTable, Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.metadata import TaskMetadata

if TYPE_CHECKING:
    from llmjax.tasks.task import Task, TaskContext


@dataclass(frozen=True)
class TaskConfig:
    """What every task has."""

    name: str = ""
    """Names its head and its metrics; empty: its kind."""
    train: tuple[AnyTable, ...] = ()
    """The training set."""
    dev: tuple[AnyTable, ...] = ()
    """The validation set. Empty: a fraction of the training set is held out."""
    dev_fraction: float = 0.1
    """That fraction; which rows it takes depends on their contents alone."""
    group: str | None = None
    """Column whose equal values stay together on one side of that split."""
    weight: float = 1.0
    """Share of the steps, relative to the other tasks' weights."""
    repack: bool = False
    """Pack examples into rows again in every epoch; resuming then takes as long as that did. false:
    pack once, and exchange examples of equal length between rows."""
    kind: str = ""
    """The task's key in `registry.TASKS`."""

    has_accuracy: ClassVar[bool] = True
    """Whether its loss counts correct predictions."""
    uses_chat_template: ClassVar[bool] = False
    """Whether the trained model is to be chatted with."""
    uses_initial_model: ClassVar[bool] = False
    """Whether its loss compares the model with the initial one; see `Task.reference`."""
    rows_are: ClassVar[str] = "texts"
    """What its rows hold, in the plural."""
    imbalance_advice: ClassVar[str] = ""
    """What may help where some labels are rare."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the texts that the model is given; empty: rows are no plain texts."""
        return ()

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns that a person reads of a mistake."""
        return self.input_columns

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Columns of what is to be predicted: not read where only predictions are wanted."""
        return ()

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of all text that the model reads or writes, for training a tokenizer."""
        return self.input_columns

    @property
    def eval_limit(self) -> int | None:
        """How many rows are predicted in an evaluation during training; None: all."""
        return None

    def labels_of(self, row: Row) -> list[str]:
        """The labels of a row, as in the metadata; none where rows have no labels.

        Raises:
          UserError: it lacks them.
        """
        return []

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """What the task has to know of its training rows.

        Raises:
          UserError: they cannot be trained on; it names row and column.
        """
        for row in rows:
            for column in (*self.input_columns, *self.target_columns):
                text_at(row, column)
        return TaskMetadata()

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        """The metrics by which a best checkpoint can be chosen, the headline first."""
        raise NotImplementedError

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        """(how bad, what is true, what was predicted) of a wrong prediction; None: it is correct,
        or predictions are not right or wrong one by one."""
        return None

    def open(self, context: "TaskContext", metadata: TaskMetadata) -> "Task":
        """The task on a model.

        Raises:
          UserError: it does not suit the model or the tokenizer.
        """
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """What is wrong with the values of this kind's own fields."""
        yield from ()


def name_of(task: TaskConfig) -> str:
    """Names a task's head and its metrics."""
    return task.name or task.kind


def not_positive(config: TaskConfig, *names: str) -> Iterator[str]:
    """The problem of each of these fields that is not a positive number."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, int):
            if value < 1:
                yield f"{name}: {value} is not positive"
        elif not 0 < value < 1e9:
            yield f"{name}: {value} is not a positive number"


def task_problems(tasks: Sequence[TaskConfig]) -> Iterator[str]:
    """Everything wrong with the values; nothing is read from disk."""
    names = [name_of(task) for task in tasks]
    for number, task in enumerate(tasks):
        where = f"tasks.{number}"
        if names.index(name_of(task)) != number:
            yield f"{where}.name: {name_of(task)} is another task's name too; choose another"
        if any(mark in name_of(task) for mark in "./\\ "):
            yield f"{where}.name: {name_of(task)!r} has a dot, a slash or a space"
        if not task.train:
            yield f"{where}.train: empty; give at least one table"
        if not task.dev and not 0 <= task.dev_fraction < 1:
            yield f"{where}.dev_fraction: {task.dev_fraction} is not in [0, 1)"
        if not 0 < task.weight < 1e30:
            yield f"{where}.weight: {task.weight} is not a positive number"
        for table in (*task.train, *task.dev):
            yield from (f"{where}.train: {problem}" for problem in table.problems())
        yield from (f"{where}.{problem}" for problem in task.problems())


def check_metric(
    metric: str | None, tasks: Sequence[tuple[TaskConfig, TaskMetadata]], *, several: bool
) -> None:
    """Checks that the best checkpoint can be chosen by this metric.

    Args:
      metric: its name.
      tasks: those that are evaluated.
      several: whether the run has several, so that metrics are called TASK.METRIC.

    Raises:
      UserError: none of the tasks has it.
    """
    if metric is None or metric == "loss":
        return
    names = [
        f"{name_of(config)}.{name}" if several else name
        for config, metadata in tasks
        for name in config.metric_names(metadata)
    ]
    if metric not in names:
        listed = ", ".join(dict.fromkeys(["loss", *names]))
        raise UserError(
            f"evaluation.metric {metric}", "is not measured here", f"choose one of {listed}"
        )
