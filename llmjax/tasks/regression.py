"""Regression on texts or pairs of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from llmjax.data.tables.table import Row, number_at
from llmjax.errors import UserError
from llmjax.losses.labels import mean_squared_error
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import ExampleOutputs, TaskContext
from llmjax.tasks.text_tasks import TextTask, TextTaskConfig

MAX_MAGNITUDE = 1e18
"""The sum of squares of larger targets overflows float32."""


@dataclass(frozen=True)
class RegressionTask(TextTaskConfig):
    """Predict a number for a text or a pair of texts; mean squared error."""

    target: str = "score"
    """Column of the number."""
    kind: Literal["regression"] = "regression"

    has_accuracy: ClassVar[bool] = False

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.target,)

    def number_of(self, row: Row) -> float:
        """Return the target of a row; UserError if it is missing or beyond MAX_MAGNITUDE."""
        number = number_at(row, self.target)
        if abs(number) > MAX_MAGNITUDE:
            where = f"{row.place}, column {self.target!r}"
            raise UserError(where, f"{number:g} is beyond {MAX_MAGNITUDE:g}", "scale the column")
        return number

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Compute the mean target, which initializes the head's bias."""
        return TaskMetadata(mean=float(np.mean([self.number_of(row) for row in rows])))

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("pearson", "spearman", "mean_squared_error", "mean_absolute_error")

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        truth, value = number_at(row, self.target), prediction["value"]
        return abs(truth - value), f"{truth:g}", f"{value:.3g}"

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "Regression":
        return Regression(context, metadata, self)


@dataclass(frozen=True, eq=False)
class Regression(TextTask):
    """Predicts a number for a text or a pair of texts."""

    config: RegressionTask
    num_outputs = 1

    @property
    def initial_bias(self) -> tuple[float, ...]:
        return (self.metadata.mean,)

    def target(self, row: Row) -> tuple[Sequence[float], float]:
        return [self.config.number_of(row)], 1.0

    def logits_loss(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
        return mean_squared_error(logits[..., 0], targets[..., 0], weights)

    def logits_outputs(self, logits: jax.Array) -> Mapping[str, jax.Array]:
        return {"value": logits[..., 0]}

    def prediction(self, outputs: ExampleOutputs) -> dict[str, Any]:
        return {"value": float(outputs["value"])}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.numbers import regression

        targets = np.array([number_at(row, self.config.target) for row in rows])
        values = np.array([prediction["value"] for prediction in predictions])
        return regression(targets, values, self.metadata.mean)
