"""Examples as arrays: what one table row becomes, whatever the task."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Segment(NamedTuple):
    """A text as the model reads it; in a packed row it sees itself alone.

    Attributes:
      tokens: int [n], what the model (of an encoder-decoder: the decoder) reads.
      types: int [n], segment types; None: all 0.
      targets: int [n], what is to be told at each token; None where only the whole has a target.
      weights: float [n], of the targets; None: as targets.
      source: int [m], what the encoder of an encoder-decoder reads; None for other models.
    """

    tokens: Sequence[int]
    types: Sequence[int] | None = None
    targets: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    source: Sequence[int] | None = None


class Example(NamedTuple):
    """What is learnt from, or predicted for, as one.

    Attributes:
      segments: one of them; two where texts are compared (always equally many in a task).
      target: float32 [k], of the whole: a class's number, k numbers, an answer's first and last
        token; k is the same for all examples of a task, 0 where only tokens have targets.
      weight: of the target.
      row: which row of the table it comes from; several may come from one row.
      place: what the task needs to tell where in the row it comes from.
    """

    segments: tuple[Segment, ...]
    target: np.ndarray
    weight: float
    row: int
    place: object = None

    @property
    def length(self) -> int:
        """Tokens that it takes of a row."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def source_length(self) -> int:
        """Tokens that it takes of an encoder's row."""
        return sum(len(segment.source or ()) for segment in self.segments)
