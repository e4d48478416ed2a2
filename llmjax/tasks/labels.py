"""Labels in tables: read, counted, numbered."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.metadata import TaskMetadata

MAX_CHARACTERS = 1000
"""Maximum length of a label."""
INTEGER = re.compile(r"-?[0-9]{1,18}")


def label_at(row: Row, column: str) -> str:
    """Read the label of a row as text.

    Raises:
      UserError: it is missing, or neither text nor an integer.
    """
    value = row.values[column] if column in row.values else text_at(row, column)
    return as_label(row, column, value)


def as_label(row: Row, column: str, value: Any) -> str:
    """Convert a value to a label: its text, stripped.

    Raises:
      UserError: it is empty, too long, or neither text nor an integer.
    """
    where = f"{row.place}, column {column}"
    if not isinstance(value, bool | str | int) or not str(value).strip():
        raise UserError(where, f"{_short(value)} is not a label", "give text or an integer")
    label = str(value).strip()
    if len(label) > MAX_CHARACTERS:
        reason = f"a label of {len(label):,} characters exceeds the limit of {MAX_CHARACTERS:,}"
        raise UserError(where, reason, "name the column of the labels")
    return label


def label_metadata(name: str, column: str, all_labels: Iterable[str]) -> TaskMetadata:
    """Collect the distinct labels, sorted (integers numerically), and their counts.

    Raises:
      UserError: there are fewer than two.
    """
    counts = Counter(all_labels)
    integers = all(map(INTEGER.fullmatch, counts))
    labels = sorted(counts, key=lambda label: (int(label), label)) if integers else sorted(counts)
    if len(labels) < 2:
        actual = f"only {_short(labels[0])}" if labels else "none"
        raise UserError(
            f"task {name}", f"needs two labels or more; column {column} has {actual}", "check it"
        )
    return TaskMetadata(labels=tuple(labels), counts=tuple(counts[label] for label in labels))


def label_number(row: Row, label: str, metadata: TaskMetadata) -> int:
    """Return the index of a label among those of the training set.

    Raises:
      UserError: the training set lacks it.
    """
    labels = metadata.labels
    try:
        return labels.index(label)
    except ValueError:
        known = ", ".join(name[:40] for name in labels[:8]) + (", ..." if len(labels) > 8 else "")
        raise UserError(
            f"{row.place}: label {_short(label)}",
            "is not in the training set",
            f"its labels are {known}",
        ) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
