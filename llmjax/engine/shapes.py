"""The shape of the cache: powers of two that follow use."""

from typing import NamedTuple

from llmjax.decoding.rows import bucket

LEAST_LENGTH = 128
"""Positions of the smallest cache."""
SHRINK = 4
"""A dimension shrinks when so many times less would do, so that it does not flutter."""


class Shape(NamedTuple):
    """Rows, positions, and positions of the encoder's output, of a cache."""

    rows: int
    slots: int
    source: int = 0


class Limits(NamedTuple):
    """What bounds the shape.

    Attributes:
      rows: requests at once.
      least_rows: rows that the mesh can split.
      context: of the model.
      encodes: whether it has an encoder.
      fixed: whether every cache has the largest shape.
    """

    rows: int
    least_rows: int
    context: int
    encodes: bool = False
    fixed: bool = False

    def slots(self, positions: int) -> int:
        """Length of a cache for so many positions."""
        least = self.context if self.fixed else bucket(positions, LEAST_LENGTH)
        return min(least, self.context)

    def shape(self, rows: int, positions: int, source: int = 0) -> Shape:
        """The smallest shape for so many rows, positions and positions of the encoder's output."""
        count = bucket(self.rows if self.fixed else rows, self.least_rows)
        return Shape(count, self.slots(positions), self.slots(source) if self.encodes else 0)


def next_shape(now: Shape, needed: Shape) -> Shape:
    """The shape to change to: larger at once, smaller only when far too large."""

    def follow(size: int, need: int) -> int:
        return need if need > size or need * SHRINK <= size else size

    return Shape(*map(follow, now, needed))
