"""What measuring gives: figures with intervals, and tables beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llmjax.errors import UserError


class Measure(NamedTuple):
    """A figure.

    Attributes:
      name: such as "accuracy".
      value: over all examples.
      low, high: its 95 % interval, from a seeded bootstrap over examples.
      larger_is_better: what to aim for.
    """

    name: str
    value: float
    low: float
    high: float
    larger_is_better: bool = True


@dataclass(frozen=True)
class Measures:
    """All figures of a set of predictions.

    Attributes:
      figures: the one to judge by first; names are unique.
      examples: how many were measured.
      tables: name -> what figures cannot say, as plain JSON data; see each function that measures.
      signature: how a published script would be told to compute the same; None where there is one
        way only.
    """

    figures: tuple[Measure, ...]
    examples: int
    tables: Mapping[str, Any] = field(default_factory=dict)
    signature: str | None = None

    def headline(self) -> Measure:
        """The figure to judge by."""
        return self.figures[0]

    def __getitem__(self, name: str) -> Measure:
        """The figure of that name; KeyError where there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; what is no finite number becomes None."""
        found: dict[str, Any] = {
            "examples": self.examples,
            "figures": {
                figure.name: {
                    "value": _finite(figure.value),
                    "low": _finite(figure.low),
                    "high": _finite(figure.high),
                    "larger_is_better": figure.larger_is_better,
                }
                for figure in self.figures
            },
        }
        if self.tables:
            found["tables"] = dict(self.tables)
        if self.signature is not None:
            found["signature"] = self.signature
        return found


def require_examples(count: int) -> None:
    """Raises UserError where there is nothing to measure."""
    if not count:
        reason = "there are no examples to measure"
        raise UserError("measures", reason, "name tables that hold some")


def require_equal(first: int, second: int) -> None:
    """Raises ValueError where predictions are not as many as truths: the caller's mistake."""
    if first != second:
        raise ValueError(f"{first} truths, but {second} predictions")


def label_table(
    labels: tuple[str, ...], right: np.ndarray, truth: np.ndarray, told: np.ndarray
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label as plain data.

    Args:
      labels: C names.
      right: int [C], how often the label was told where it is true.
      truth: int [C], how often it is true.
      told: int [C], how often it was told.
    """
    rows = []
    for name, hits, true, said in zip(labels, right, truth, told, strict=True):
        rows.append(
            {
                "label": name,
                "precision": float(hits / said) if said else 0.0,
                "recall": float(hits / true) if true else 0.0,
                "f1": float(2 * hits / (true + said)) if true + said else 0.0,
                "truth": int(true),
                "told": int(said),
            }
        )
    return rows


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
