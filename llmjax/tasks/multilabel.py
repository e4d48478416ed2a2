"""Multi-label classification of texts or pairs of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from llmjax.data.tables.table import Row, list_at
from llmjax.losses.labels import sigmoid_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.tasks.config import name_of
from llmjax.tasks.labels import as_label, label_metadata, label_number
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import ExampleOutputs, TaskContext
from llmjax.tasks.text_tasks import TextTask, TextTaskConfig


@dataclass(frozen=True)
class MultiLabelTask(TextTaskConfig):
    """Tag a text or a pair of texts with any number of labels; sigmoid cross-entropy per label."""

    labels: str = "labels"
    """Column of the labels: a list, or separated text."""
    separator: str = ","
    """Separates labels where the column is text."""
    kind: Literal["multilabel"] = "multilabel"

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.labels,)

    def labels_of(self, row: Row) -> list[str]:
        values = list_at(row, self.labels, self.separator)
        return [as_label(row, self.labels, value) for value in values]

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Collect the labels, sorted."""
        labels = (label for row in rows for label in self.labels_of(row))
        return label_metadata(name_of(self), self.labels, labels)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("f1_micro", "f1_macro", "exact_match", "loss")

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        truth = set(self.labels_of(row))
        wrong = truth ^ set(prediction["labels"])
        if not wrong:
            return None
        return float(len(wrong)), ", ".join(sorted(truth)), ", ".join(prediction["labels"])

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "MultiLabel":
        return MultiLabel(context, metadata, self)


@dataclass(frozen=True, eq=False)
class MultiLabel(TextTask):
    """Predicts any number of labels for a text or a pair of texts."""

    config: MultiLabelTask

    @property
    def num_outputs(self) -> int:
        return len(self.metadata.labels)

    @property
    def target_size(self) -> int:
        return len(self.metadata.labels)

    def target(self, row: Row) -> tuple[np.ndarray, float]:
        target = np.zeros(self.target_size, np.float32)
        for label in self.config.labels_of(row):
            target[label_number(row, label, self.metadata)] = 1.0
        return target, 1.0

    def logits_loss(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
        return sigmoid_cross_entropy(logits, targets, weights)

    def logits_outputs(self, logits: jax.Array) -> Mapping[str, jax.Array]:
        return {"probabilities": jax.nn.sigmoid(logits)}

    def prediction(self, outputs: ExampleOutputs) -> dict[str, Any]:
        values = map(float, outputs["probabilities"])
        probabilities = dict(zip(self.metadata.labels, values, strict=True))
        labels = [label for label, value in probabilities.items() if value > 0.5]
        return {"labels": labels, "probabilities": probabilities}

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.labels import multilabel

        targets = np.array([self.target(row)[0] for row in rows])
        probabilities = [list(prediction["probabilities"].values()) for prediction in predictions]
        return multilabel(self.metadata.labels, targets, np.array(probabilities))
