"""Labels in tables: as text, in order, by number."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.metadata import TaskMetadata

MAX_CHARACTERS = 1000
"""A longer text is hardly meant as a label."""
INTEGER = re.compile(r"-?[0-9]{1,18}")


def label_at(row: Row, column: str) -> str:
    """The label of a row, as text.

    Raises:
      UserError: there is none, or it is neither text nor an integer.
    """
    value = row.values[column] if column in row.values else text_at(row, column)
    return as_label(row, column, value)


def as_label(row: Row, column: str, value: Any) -> str:
    """A value of a row's column as a label: as it is written, without blanks around it.

    Raises:
      UserError: it is empty, too long, or neither text nor an integer.
    """
    where = f"{row.place}, column {column}"
    if not isinstance(value, bool | str | int) or not str(value).strip():
        raise UserError(where, f"{_short(value)} is no label", "give text or an integer")
    label = str(value).strip()
    if len(label) > MAX_CHARACTERS:
        reason = f"a label of {len(label):,} characters: at most {MAX_CHARACTERS:,} are read"
        raise UserError(where, reason, "name the column of the labels")
    return label


def label_metadata(name: str, column: str, all_labels: Iterable[str]) -> TaskMetadata:
    """The different labels, in order (integers by their size), and how often each occurs.

    Raises:
      UserError: there are fewer than two.
    """
    counts = Counter(all_labels)
    integers = all(map(INTEGER.fullmatch, counts))
    labels = sorted(counts, key=lambda label: (int(label), label)) if integers else sorted(counts)
    if len(labels) < 2:
        have = f"only {_short(labels[0])}" if labels else "none"
        raise UserError(
            f"task {name}", f"needs two labels or more; column {column} has {have}", "check it"
        )
    return TaskMetadata(labels=tuple(labels), counts=tuple(counts[label] for label in labels))


def label_number(row: Row, label: str, metadata: TaskMetadata) -> int:
    """The number of a row's label among those of the training set.

    Raises:
      UserError: it is not among them.
    """
    labels = metadata.labels
    try:
        return labels.index(label)
    except ValueError:
        few = ", ".join(name[:40] for name in labels[:8]) + (", ..." if len(labels) > 8 else "")
        raise UserError(
            f"{row.place}: label {_short(label)}",
            "is not in the training set",
            f"its labels are {few}",
        ) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
