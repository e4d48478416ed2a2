"""A number for a text or a pair of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llmjax.data.tables.table import Row, number_at
from llmjax.errors import UserError
from llmjax.losses.labels import mean_squared_error
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import RegressionTask
from llmjax.tasks.example import Example
from llmjax.tasks.heads import Head
from llmjax.tasks.of_texts import OfTexts
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Write
from llmjax.tasks.texts import read_texts

LARGEST = 1e18
"""Magnitude of targets; the sum of squares of larger ones overflows float32."""


@dataclass(frozen=True, eq=False)
class Regression(OfTexts):
    """A number for a text or a pair of texts."""

    config: RegressionTask
    outputs_per_target = 1

    @staticmethod
    def find(config: RegressionTask, rows: Sequence[Row]) -> Facts:
        """The mean of the numbers, where the head begins.

        Raises:
          UserError: a row without a number, or with one beyond LARGEST.
        """
        numbers = [_target(row, config.target) for row in rows]
        return Facts(mean=float(np.mean(numbers)))

    @property
    def head(self) -> Head:
        return self.text_head(self.config, 1, (self.facts.mean,))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        segments = read_texts(self.setting, rows, self.config.text, self.config.pair)
        found = []
        for number, (row, segment) in enumerate(zip(rows, segments, strict=True)):
            there = self.config.target in row.values
            target = _target(row, self.config.target) if there else 0.0
            one = Example((segment,), np.array([target], np.float32), float(there), number)
            found.append(one)
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        told = self.logits(self.config, self.head, model, params, batch, key)[..., 0]
        targets, weights = batch["slot_targets"][..., 0], batch["slot_weights"]
        return mean_squared_error(told, targets, weights)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        told = self.logits(self.config, self.head, model, params, batch, None)
        return Outputs(slots={"value": told[..., 0]})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        return [{"value": float(one["value"])} for one in found]

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.numbers import regression

        truth = np.array([number_at(row, self.config.target) for row in rows])
        return regression(truth, np.array([one["value"] for one in predictions]))


def _target(row: Row, column: str) -> float:
    number = number_at(row, column)
    if abs(number) > LARGEST:
        where = f"{row.place}, column {column!r}"
        raise UserError(where, f"{number:g} is beyond {LARGEST:g}", "scale the column")
    return number
