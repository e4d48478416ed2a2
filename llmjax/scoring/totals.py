"""Sums over what was told of documents, whatever was to be told."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Totals(ABC):
    """Sums over targets.

    Attributes:
      nats: of all targets.
      tokens: how many there are.
      bytes: UTF-8 bytes of the documents' original text.
      documents: how many there are.
      context: tokens of a window.
    """

    nats: float
    tokens: int
    bytes: int
    documents: int
    context: int

    @property
    def loss_per_token(self) -> float:
        """Nats per target."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the loss per target; infinite where that overflows."""
        return math.exp(self.loss_per_token) if self.loss_per_token < 709 else math.inf

    @abstractmethod
    def quality(self) -> dict[str, float | None]:
        """The figures beside the loss: bits per byte, or where most of the text is given, None for
        these, and accuracy."""

    @abstractmethod
    def words(self) -> dict[str, str]:
        """For a person: the first figure, what the targets are, how windows lie."""

    @property
    def larger_is_better(self) -> dict[str, bool]:
        """Of each figure of `quality`."""
        return {name: name == "accuracy" for name in self.quality()}
