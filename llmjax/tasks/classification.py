"""One of several labels for a text or a pair of texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import ClassificationTask, name_of
from llmjax.tasks.example import Example
from llmjax.tasks.heads import Head
from llmjax.tasks.labels import label_at, labels_of, number_of
from llmjax.tasks.of_texts import OfTexts
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Write
from llmjax.tasks.texts import read_texts


@dataclass(frozen=True, eq=False)
class Classification(OfTexts):
    """One of several labels for a text or a pair of texts."""

    config: ClassificationTask
    outputs_per_target = 1

    @staticmethod
    def find(config: ClassificationTask, rows: Sequence[Row]) -> Facts:
        """The labels that there are, in order; numbers by their size.

        Raises:
          UserError: a row without a label, or fewer than two labels.
        """
        return labels_of(
            name_of(config), config.label, (label_at(row, config.label) for row in rows)
        )

    @property
    def head(self) -> Head:
        return self.text_head(self.config, len(self.facts.labels))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        config, labels = self.config, self.facts.labels
        segments = read_texts(self.setting, rows, config.text, config.pair)
        known = {label: number for number, label in enumerate(labels)}
        weights = self._class_weights()
        found = []
        for number, (row, segment) in enumerate(zip(rows, segments, strict=True)):
            target, weight = -1, 0.0
            if config.label in row.values:
                target = number_of(row, label_at(row, config.label), known)
                weight = weights[target]
            found.append(Example((segment,), np.array([target], np.float32), weight, number))
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        logits = self.logits(self.config, self.head, model, params, batch, key)
        targets = batch["slot_targets"][..., 0].astype(jnp.int32)
        smoothing = self.config.label_smoothing
        return softmax_cross_entropy(logits, targets, batch["slot_weights"], smoothing)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        logits = self.logits(self.config, self.head, model, params, batch, None)
        return Outputs(slots={"probabilities": jax.nn.softmax(logits, axis=-1)})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        labels, told = self.facts.labels, []
        for one in found:
            shares = one["probabilities"]
            best = int(shares.argmax())
            each = dict(zip(labels, map(float, shares), strict=True))
            told.append(
                {"label": labels[best], "probability": each[labels[best]], "probabilities": each}
            )
        return told

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.labels import classification

        known = {label: number for number, label in enumerate(self.facts.labels)}
        truth = [number_of(row, label_at(row, self.config.label), known) for row in rows]
        shares = [list(one["probabilities"].values()) for one in predictions]
        return classification(self.facts.labels, np.array(truth), np.array(shares))

    def _class_weights(self) -> list[float]:
        counts = self.facts.counts
        if self.config.class_weights == "none":
            return [1.0] * len(counts)
        return [sum(counts) / (len(counts) * count) for count in counts]
