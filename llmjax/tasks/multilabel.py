"""Any number of labels for a text or a pair of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from llmjax.data.tables.table import Row, list_at
from llmjax.losses.labels import sigmoid_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import MultiLabelTask, name_of
from llmjax.tasks.example import Example
from llmjax.tasks.heads import Head
from llmjax.tasks.labels import label_of, labels_of, number_of
from llmjax.tasks.of_texts import OfTexts
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Write
from llmjax.tasks.texts import read_texts


@dataclass(frozen=True, eq=False)
class MultiLabel(OfTexts):
    """Any number of labels for a text or a pair of texts."""

    config: MultiLabelTask

    @staticmethod
    def find(config: MultiLabelTask, rows: Sequence[Row]) -> Facts:
        """The labels that there are, in order.

        Raises:
          UserError: a row without the column, or fewer than two labels.
        """
        every = (label for row in rows for label in _labels_at(row, config))
        return labels_of(name_of(config), config.labels, every)

    @property
    def outputs_per_target(self) -> int:
        return len(self.facts.labels)

    @property
    def head(self) -> Head:
        return self.text_head(self.config, len(self.facts.labels))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        segments = read_texts(self.setting, rows, self.config.text, self.config.pair)
        found = []
        for number, (row, segment) in enumerate(zip(rows, segments, strict=True)):
            there = self.config.labels in row.values
            target = self._target(row) if there else np.zeros(len(self.facts.labels), np.float32)
            found.append(Example((segment,), target, float(there), number))
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        logits = self.logits(self.config, self.head, model, params, batch, key)
        return sigmoid_cross_entropy(logits, batch["slot_targets"], batch["slot_weights"])

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        logits = self.logits(self.config, self.head, model, params, batch, None)
        return Outputs(slots={"probabilities": jax.nn.sigmoid(logits)})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        told = []
        for one in found:
            shares = dict(zip(self.facts.labels, map(float, one["probabilities"]), strict=True))
            likely = [label for label, share in shares.items() if share > 0.5]
            told.append({"labels": likely, "probabilities": shares})
        return told

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.labels import multilabel

        truth = np.array([self._target(row) for row in rows])
        shares = np.array([list(one["probabilities"].values()) for one in predictions])
        return multilabel(self.facts.labels, truth, shares)

    def _target(self, row: Row) -> np.ndarray:
        known = {label: number for number, label in enumerate(self.facts.labels)}
        target = np.zeros(len(known), np.float32)
        for label in _labels_at(row, self.config):
            target[number_of(row, label, known)] = 1.0
        return target


def _labels_at(row: Row, config: MultiLabelTask) -> list[str]:
    """The labels of a row; UserError where one is none."""
    values = list_at(row, config.labels, config.separator)
    return [label_of(row, config.labels, value) for value in values]
