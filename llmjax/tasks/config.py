"""The base class of task configs, and checks of them.

A config class holds all of a task that needs no model: columns, metrics, metadata of the training
set. `open` binds it to a model as a `task.Task`.
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
    """The fields of every task."""

    name: str = ""
    """Name of its head and metrics; empty: its kind."""
    train: tuple[AnyTable, ...] = ()
    """The training set."""
    dev: tuple[AnyTable, ...] = ()
    """The validation set. Empty: hold out a fraction of the training set."""
    dev_fraction: float = 0.1
    """Fraction of rows held out, chosen by a hash of their contents."""
    group: str | None = None
    """Column whose equal values stay on the same side of that split."""
    weight: float = 1.0
    """Sampling weight: its share of the steps, relative to the other tasks."""
    repack: bool = False
    """Pack examples into rows again in every epoch, also when resuming. false: pack once, and swap
    examples of equal length between rows."""
    kind: str = ""
    """The task's key in `registry.TASKS`."""

    has_accuracy: ClassVar[bool] = True
    """Whether its loss counts correct predictions."""
    uses_chat_template: ClassVar[bool] = False
    """Whether the trained model is a chat model."""
    uses_initial_model: ClassVar[bool] = False
    """Whether its loss needs the initial model as a reference; see `Task.reference`."""
    rows_are: ClassVar[str] = "texts"
    """What its rows are, in the plural, for messages."""
    imbalance_advice: ClassVar[str] = ""
    """Advice printed where some labels are rare."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns of the input texts; empty if rows are not plain texts."""
        return ()

    @property
    def shown_columns(self) -> tuple[str, ...]:
        """Columns shown with a wrong prediction."""
        return self.input_columns

    def shown(self, row: Row) -> list[Any]:
        """Return what is shown of a row with a wrong prediction."""
        return [row.values.get(column) for column in self.shown_columns]

    @property
    def target_columns(self) -> tuple[str, ...]:
        """Columns of the targets, which prediction does not read."""
        return ()

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Columns of all text, input and output, for training a tokenizer."""
        return self.input_columns

    @property
    def eval_limit(self) -> int | None:
        """Rows predicted per evaluation during training; None: all."""
        return None

    def labels_of(self, row: Row) -> list[str]:
        """Return the labels of a row, as in the metadata; empty for tasks without labels.

        Raises:
          UserError: the row lacks them.
        """
        return []

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Compute the metadata of the training rows.

        Raises:
          UserError: a row cannot be trained on; names row and column.
        """
        for row in rows:
            for column in (*self.input_columns, *self.target_columns):
                text_at(row, column)
        return TaskMetadata()

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        """The metrics that can select the best checkpoint, the headline first."""
        raise NotImplementedError

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        """Return (cost, truth, prediction) of a wrong prediction; None if it is correct, or if
        single predictions are neither right nor wrong."""
        return None

    def open(self, context: "TaskContext", metadata: TaskMetadata) -> "Task":
        """Bind the task to a model.

        Raises:
          UserError: the model or the tokenizer does not support the task.
        """
        raise NotImplementedError

    def problems(self) -> Iterator[str]:
        """Yield the problems of the fields that this kind adds."""
        yield from ()


def name_of(task: TaskConfig) -> str:
    """Return the name of a task's head and metrics."""
    return task.name or task.kind


def not_positive(config: TaskConfig, *names: str) -> Iterator[str]:
    """Yield a problem for each of these fields that is not a positive number."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, int):
            if value < 1:
                yield f"{name}: {value} is not positive"
        elif not 0 < value < 1e9:
            yield f"{name}: {value} is not a positive number"


def task_problems(tasks: Sequence[TaskConfig]) -> Iterator[str]:
    """Yield all problems of the configs; reads nothing from disk."""
    names = [name_of(task) for task in tasks]
    for number, task in enumerate(tasks):
        where = f"tasks.{number}"
        if names.index(name_of(task)) != number:
            yield f"{where}.name: {name_of(task)} is already the name of another task"
        if any(mark in name_of(task) for mark in "./\\ "):
            yield f"{where}.name: {name_of(task)!r} contains a dot, a slash or a space"
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
    """Check that the metric can select the best checkpoint.

    Args:
      metric: name of the metric.
      tasks: the evaluated tasks.
      several: whether the run has several tasks, so that metrics are named TASK.METRIC.

    Raises:
      UserError: no task has the metric.
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
