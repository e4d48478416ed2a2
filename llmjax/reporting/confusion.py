"""A confusion matrix as a table, its cells shaded by their share of the row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmjax.reporting.format import count, percent, show_controls

MAX_LABELS = 20
"""Labels to show, the most frequent ones."""
MAX_PAIRS = 10
FAINTEST, STRONG = 7, 65
"""Percent of colour: minimum for a count above zero; threshold for text in the paper's colour."""


@dataclass(frozen=True)
class Cell:
    """How often one label was predicted for another (or the same) true label."""

    count: str
    title: str
    share: int
    correct: bool
    strong: bool


@dataclass(frozen=True)
class Confusion:
    """The table.

    Attributes:
      labels: labels of rows (true) and columns (predicted).
      rows: cells by true label.
      upright: whether the labels fit above their columns horizontally.
      note: what is omitted; may be empty.
      pairs: (true label, prediction, count, share of the true label's examples) of the most
        frequent confusions, if not all labels are shown.
    """

    labels: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    upright: bool
    note: str
    pairs: Sequence[tuple[str, str, str, str]]

    @property
    def lines(self) -> list[tuple[str, Sequence[Cell]]]:
        return list(zip(self.labels, self.rows, strict=True))


class _Matrix(NamedTuple):
    """Label names, counts [true][predicted], and their sums by true label."""

    labels: Sequence[str]
    counts: Sequence[Sequence[float]]
    sums: Sequence[float]


def confusion(table: Mapping[str, Any]) -> Confusion | None:
    """Renders {"labels": [C names], "counts": [C][C], true by predicted}; None if invalid."""
    matrix = _read(table)
    if matrix is None:
        return None
    labels = matrix.labels
    order = sorted(range(len(labels)), key=lambda k: -matrix.sums[k])
    shown = sorted(order[:MAX_LABELS])
    note, pairs = "", []
    if len(labels) > MAX_LABELS:
        note = f"The {MAX_LABELS} most frequent of {count(len(labels))} labels."
        pairs = _pairs(matrix)
    names = [labels[k] for k in shown]
    return Confusion(
        labels=[_cut(name) for name in names],
        rows=[[_cell(matrix, i, j) for j in shown] for i in shown],
        upright=len(names) * max(3, *(min(len(name), 24) for name in names)) <= 60,
        note=note,
        pairs=pairs,
    )


def _cell(matrix: _Matrix, i: int, j: int) -> Cell:
    labels, times = matrix.labels, matrix.counts[i][j]
    share = times / matrix.sums[i] if matrix.sums[i] else 0.0
    title = f"{labels[i]} predicted as {labels[j]}: {count(times)}, "
    title += f"{percent(share)} of {labels[i]}"
    shade = FAINTEST + round((100 - FAINTEST) * share) if times else 0
    return Cell(count(times), title, shade, i == j, shade >= STRONG)


def _pairs(matrix: _Matrix) -> list[tuple[str, str, str, str]]:
    labels, counts, sums = matrix
    size = range(len(labels))
    wrong = [(counts[i][j], i, j) for i in size for j in size if i != j and counts[i][j]]
    return [
        (_cut(labels[i]), _cut(labels[j]), count(times), percent(times / sums[i]))
        for times, i, j in sorted(wrong, reverse=True)[:MAX_PAIRS]
    ]


def _read(table: Mapping[str, Any]) -> _Matrix | None:
    """Parses a table; returns None if labels and counts do not match."""
    labels, counts = table.get("labels"), table.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(labels) < 2:
        return None
    is_square = len(counts) == len(labels) and all(
        isinstance(row, list) and len(row) == len(labels) and all(map(_is_count, row))
        for row in counts
    )
    if not is_square:
        return None
    return _Matrix([show_controls(str(name)) for name in labels], counts, [*map(sum, counts)])


def _is_count(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _cut(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
