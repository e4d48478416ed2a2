"""What a run learns: text by an objective, or examples of tasks."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from jax.sharding import Mesh

from llmjax.data.loader import Feed
from llmjax.state import Tree
from llmjax.step import LossFunction


@dataclass(frozen=True)
class Heldout:
    """What was measured on what is never learnt from.

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


class Lesson(Protocol):
    """What is learnt, and how it is measured."""

    @property
    def fingerprint(self) -> str:
        """Of all that batches are made of."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps of a pass through it."""

    @property
    def stops(self) -> bool:
        """Whether a run ends with the feed; else it is a mistake to go on."""

    @property
    def unembeds(self) -> bool:
        """Whether tokens of the vocabulary are told."""

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        """One, or one for each task."""

    @property
    def priced(self) -> bool:
        """Whether the targets are all of a text, which then has a price in bits per byte."""

    @property
    def tells(self) -> bool:
        """Whether what is told is right or wrong; else there is no accuracy."""

    def feed(self) -> Feed:
        """The batches."""

    def task(self, step: int) -> int:
        """Whose loss the batch of a step is for."""

    def samples(self, metric: str | None) -> bool:
        """Whether, while training, that figure is of a part of what is held out: then the last one,
        of all of it, does not compare with the others."""

    def score(self, params: Tree, mesh: Mesh, whole: bool) -> Heldout | None:
        """Measures what is held out, or a part of it; None where nothing is."""

    def facts(self) -> dict[str, Any]:
        """What environment.json says of it."""

    def headline(self) -> str:
        """What it is, in a few words."""
