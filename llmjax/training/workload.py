"""What a run trains on: text by an objective, or examples of tasks."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from jax.sharding import Mesh

from llmjax.data.loader import Feed
from llmjax.run.folder import Run
from llmjax.state import Tree
from llmjax.step import LossFunction


@dataclass(frozen=True)
class EvalResult:
    """What was measured on the validation set.

    Attributes:
      loss: per unit of weight.
      figures: name -> value, for the record of metrics.
      larger_is_better: of those figures by which a best one can be found.
      details: what figures cannot say, as plain data: task -> its findings.
    """

    loss: float
    figures: dict[str, float | None]
    larger_is_better: dict[str, bool]
    details: dict[str, Any] = field(default_factory=dict)

    def cost(self, metric: str | None) -> float | None:
        """What is to be small: the loss, or a figure by name; None where there is none of it.

        Raises:
          KeyError: no such figure is ever measured here.
        """
        if metric is None or metric == "loss":
            return self.loss
        value, larger = self.figures[metric], self.larger_is_better[metric]
        if value is None:
            return None
        return -value if larger else value


class Workload(Protocol):
    """What a run trains on, its loss, and how it is evaluated."""

    @property
    def fingerprint(self) -> str:
        """Of all that batches are made of."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps of a pass through the training set."""

    @property
    def is_finite(self) -> bool:
        """Whether a run ends with the feed; else reading on is a mistake."""

    @property
    def has_lm_head(self) -> bool:
        """Whether tokens of the vocabulary are predicted."""

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        """One, or one for each task."""

    def feed(self) -> Feed:
        """The batches; `Feed.task` says whose loss a step's batch is for."""

    def evaluates_part(self, metric: str | None) -> bool:
        """Whether evaluations while training measure that metric on a part of the validation set:
        then the last one, on all of it, is not comparable with them."""

    def evaluate(self, params: Tree, mesh: Mesh, whole: bool) -> EvalResult | None:
        """Measures the validation set, or a part of it; None where there is none."""

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Workload":
        """The workload with what is computed from the untrained parameters, if anything."""

    def write_metadata(self, run: Run) -> None:
        """Writes what the workload keeps in the run folder. Called once it is certain that the run
        continues with this data.

        Raises:
          UserError: the folder cannot be written.
        """

    def data_facts(self) -> dict[str, Any]:
        """For environment.json."""

    def headline(self) -> str:
        """What it is, in a few words."""
