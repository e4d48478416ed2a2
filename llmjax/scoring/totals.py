"""Sums over what was told of documents, whatever was to be told."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmjax.metrics.texts import language


class ByDocument(NamedTuple):
    """The same sums of each of D documents, from which intervals are drawn.

    Attributes:
      nats: float64 [D].
      tokens: [D].
      bytes: int64 [D].
      correct: [D], how many targets are told rightly; None where that is not asked.
    """

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    correct: np.ndarray | None = None


@dataclass(frozen=True)
class Totals(ABC):
    """Sums over targets.

    Attributes:
      nats: of all targets.
      tokens: how many there are.
      bytes: UTF-8 bytes of the documents' original text.
      documents: how many there are.
      context: tokens of a window.
      each: the sums of each document.
    """

    nats: float
    tokens: int
    bytes: int
    documents: int
    context: int
    each: ByDocument = field(repr=False, compare=False)

    @property
    def loss_per_token(self) -> float:
        """Nats per target."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """e to the loss per target; infinite where that overflows."""
        return math.exp(self.loss_per_token) if self.loss_per_token < 709 else math.inf

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals (low, high) of loss, perplexity and the figures of `quality`, from drawing
        as many documents anew (see `measures.bootstrap`); none where there is one document only."""
        if self.documents < 2:
            return {}
        priced = self.quality()["bits_per_byte"] is not None
        nats, tokens, num_bytes, correct = self.each
        found = language(nats, tokens, correct, num_bytes if priced else None)
        return {figure.name: (figure.low, figure.high) for figure in found.metrics}

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
