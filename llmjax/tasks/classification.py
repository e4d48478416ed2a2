"""Classification of texts or pairs of texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.tasks.config import name_of
from llmjax.tasks.labels import label_at, label_metadata, label_number
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import ExampleOutputs, TaskContext
from llmjax.tasks.text_tasks import TextTask, TextTaskConfig


@dataclass(frozen=True)
class ClassificationTask(TextTaskConfig):
    """Classify a text or a pair of texts: one of several labels, softmax cross-entropy."""

    label: str = "label"
    """Column of the label: text or integers."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight labels inversely to their frequency."""
    label_smoothing: float = 0.0
    """Probability mass of the target that is spread evenly over all labels."""
    kind: Literal["classification"] = "classification"

    imbalance_advice: ClassVar[str] = "class_weights balanced may help"

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.label,)

    def labels_of(self, row: Row) -> list[str]:
        return [label_at(row, self.label)]

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Collect the labels, sorted (integers numerically)."""
        labels = (label for row in rows for label in self.labels_of(row))
        return label_metadata(name_of(self), self.label, labels)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("accuracy", "f1_macro", "f1_micro", "matthews", "loss")

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        truth, label = label_at(row, self.label), prediction["label"]
        probability = prediction["probability"]
        return None if truth == label else (probability, truth, f"{label} ({probability:.0%})")

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "Classification":
        return Classification(context, metadata, self)

    def problems(self) -> Iterator[str]:
        if not 0 <= self.label_smoothing < 1:
            yield f"label_smoothing: {self.label_smoothing} is not in [0, 1)"


@dataclass(frozen=True, eq=False)
class Classification(TextTask):
    """Predicts one of several labels for a text or a pair of texts."""

    config: ClassificationTask

    @property
    def num_outputs(self) -> int:
        return len(self.metadata.labels)

    def target(self, row: Row) -> tuple[Sequence[float], float]:
        number = label_number(row, label_at(row, self.config.label), self.metadata)
        counts = self.metadata.counts
        balanced = self.config.class_weights == "balanced"
        return [number], sum(counts) / (len(counts) * counts[number]) if balanced else 1.0

    def logits_loss(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
        numbers, smoothing = targets[..., 0].astype(jnp.int32), self.config.label_smoothing
        return softmax_cross_entropy(logits, numbers, weights, smoothing)

    def logits_outputs(self, logits: jax.Array) -> Mapping[str, jax.Array]:
        return {"probabilities": jax.nn.softmax(logits, axis=-1)}

    def prediction(self, outputs: ExampleOutputs) -> dict[str, Any]:
        labels, values = self.metadata.labels, outputs["probabilities"]
        probabilities = dict(zip(labels, map(float, values), strict=True))
        label = labels[int(values.argmax())]
        return {
            "label": label,
            "probability": probabilities[label],
            "probabilities": probabilities,
        }

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.labels import classification

        targets = [
            label_number(row, label_at(row, self.config.label), self.metadata) for row in rows
        ]
        probabilities = [list(prediction["probabilities"].values()) for prediction in predictions]
        return classification(self.metadata.labels, np.array(targets), np.array(probabilities))
