"""The protocol of workloads: pre-training on text, or fine-tuning on examples of tasks."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from jax.sharding import Mesh

from llmjax.data.loader import Feed
from llmjax.errors import UserError
from llmjax.run.folder import Run
from llmjax.state import Tree
from llmjax.step import LossFunction


@dataclass(frozen=True)
class EvalResult:
    """The result of an evaluation on the validation set.

    Attributes:
      loss: per unit of weight.
      metrics: values by name, as logged; None: undefined here.
      larger_is_better: of the metrics that may be named by evaluation.metric.
      details: tables and examples by task, as plain data.
    """

    loss: float
    metrics: dict[str, float | None]
    larger_is_better: dict[str, bool]
    details: dict[str, Any] = field(default_factory=dict)

    def cost(self, metric: str | None) -> float | None:
        """The quantity to minimize: the loss, or a metric (negated if larger is better); None if
        its value is None.

        Raises:
          KeyError: the workload does not measure this metric.
        """
        if metric is None or metric == "loss":
            return self.loss
        value, larger = self.metrics[metric], self.larger_is_better[metric]
        if value is None:
            return None
        return -value if larger else value


def evaluation_cost(result: EvalResult, metric: str | None) -> float | None:
    """The quantity to minimize.

    Raises:
      UserError: this run does not measure the metric.
    """
    try:
        return result.cost(metric)
    except KeyError as error:
        known = ", ".join(["loss", *result.larger_is_better])
        raise UserError(
            f"evaluation.metric {metric}", "is not measured here", f"choose one of {known}"
        ) from error


class Workload(Protocol):
    """The training data of a run, its losses, and its evaluation."""

    @property
    def fingerprint(self) -> str:
        """A digest of the training data."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps of a pass through the training set."""

    def epochs(self, step: int) -> float:
        """Passes through the training set before a step."""

    @property
    def is_finite(self) -> bool:
        """Whether a run ends early where the feed ends; otherwise that is an error."""

    @property
    def has_lm_head(self) -> bool:
        """Whether training uses the language-model head."""

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        """One, or one for each task."""

    def feed(self) -> Feed:
        """The batches; `Feed.task` is the index in `losses` of a step's loss."""

    def evaluates_subset(self, metric: str | None) -> bool:
        """Whether evaluations during training measure this metric on a subset of the validation
        set, so that they do not compare with the last one, which is on all of it."""

    def evaluate(self, params: Tree, mesh: Mesh, full: bool) -> EvalResult | None:
        """Evaluates on the validation set, `full` or its subset; None if there is none."""

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Workload":
        """Returns the workload after computing what it needs of the initial parameters."""

    def write_metadata(self, run: Run) -> None:
        """Writes the workload's metadata to the run folder, once all checks have passed.

        Raises:
          UserError: the folder cannot be written.
        """

    def data_summary(self) -> dict[str, Any]:
        """Sizes of the training and validation sets, for environment.json."""

    def headline(self) -> str:
        """The data in a few words, for the display."""
