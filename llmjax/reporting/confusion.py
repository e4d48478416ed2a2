"""A confusion matrix as a table whose cells are shaded by their share of a row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmjax.reporting.format import count, percent, show_controls

MAX_LABELS = 20
"""Labels that are shown; of more, the most frequent ones."""
MAX_PAIRS = 10
FAINTEST, STRONG = 7, 65
"""Per cent of colour: of any count above zero; from where text has the paper's colour."""


@dataclass(frozen=True)
class Cell:
    """How often one label was predicted where another (or the same) is true."""

    count: str
    title: str
    share: int
    correct: bool
    strong: bool


@dataclass(frozen=True)
class Confusion:
    """The table.

    Attributes:
      labels: of rows (true labels) and columns (predicted labels).
      rows: cells by true label.
      upright: whether the labels fit above their columns horizontally.
      note: what is left out; may be empty.
      pairs: (true label, prediction, count, share of the true label's rows), the most frequent
        confusions, where not all labels are shown.
    """

    labels: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    upright: bool
    note: str
    pairs: Sequence[tuple[str, str, str, str]]

    @property
    def lines(self) -> list[tuple[str, Sequence[Cell]]]:
        return list(zip(self.labels, self.rows, strict=True))


def confusion(table: Mapping[str, Any]) -> Confusion | None:
    """The table of {"labels": [C names], "counts": [C][C], true by predicted}, or None."""
    labels, counts = _read(table)
    if not labels:
        return None
    sums = [sum(row) for row in counts]
    order = sorted(range(len(labels)), key=lambda k: -sums[k])
    shown = sorted(order[:MAX_LABELS])
    note, pairs = "", []
    if len(labels) > MAX_LABELS:
        note = f"The {MAX_LABELS} most frequent of {count(len(labels))} labels."
        pairs = _pairs(labels, counts, sums)
    names = [labels[k] for k in shown]
    return Confusion(
        labels=[_cut(name) for name in names],
        rows=[[_cell(labels, counts, sums, i, j) for j in shown] for i in shown],
        upright=len(names) * max(3, *(min(len(name), 24) for name in names)) <= 60,
        note=note,
        pairs=pairs,
    )


def _cell(
    labels: Sequence[str], counts: Sequence[Sequence[float]], sums: Sequence[float], i: int, j: int
) -> Cell:
    times = counts[i][j]
    share = times / sums[i] if sums[i] else 0.0
    title = f"{labels[i]} predicted as {labels[j]}: {count(times)}, "
    title += f"{percent(share)} of {labels[i]}"
    shade = FAINTEST + round((100 - FAINTEST) * share) if times else 0
    return Cell(count(times) if times else "", title, shade, i == j, shade >= STRONG)


def _pairs(
    labels: Sequence[str], counts: Sequence[Sequence[float]], sums: Sequence[float]
) -> list[tuple[str, str, str, str]]:
    size = range(len(labels))
    wrong = [(counts[i][j], i, j) for i in size for j in size if i != j and counts[i][j]]
    return [
        (_cut(labels[i]), _cut(labels[j]), count(times), percent(times / sums[i]))
        for times, i, j in sorted(wrong, reverse=True)[:MAX_PAIRS]
    ]


def _read(table: Mapping[str, Any]) -> tuple[list[str], list[list[float]]]:
    """Labels and counts; empty lists where they do not fit together."""
    labels, counts = table.get("labels"), table.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(labels) < 2:
        return [], []
    square = len(counts) == len(labels) and all(
        isinstance(row, list) and len(row) == len(labels) and all(map(_is_count, row))
        for row in counts
    )
    return ([show_controls(str(name)) for name in labels], counts) if square else ([], [])


def _is_count(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _cut(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
