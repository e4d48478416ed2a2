"""Labels in tables: as text, in order, by number."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.task import Facts

LONGEST = 1000
"""Characters of a label: a longer text is hardly meant as one."""
WHOLE = re.compile(r"-?[0-9]{1,18}")


def label_at(row: Row, column: str) -> str:
    """The label of a row, as text.

    Raises:
      UserError: there is none, or it is neither text nor an integer.
    """
    return label_of(
        row, column, row.values[column] if column in row.values else text_at(row, column)
    )


def label_of(row: Row, column: str, value: Any) -> str:
    """A value of a row's column as a label: as it is written, without blanks around it.

    Raises:
      UserError: it is empty, too long, or neither text nor an integer.
    """
    where = f"{row.place}, column {column}"
    if not isinstance(value, bool | str | int) or not str(value).strip():
        raise UserError(where, f"{_shown(value)} is no label", "give text or an integer")
    label = str(value).strip()
    if len(label) > LONGEST:
        reason = f"a label of {len(label):,} characters: at most {LONGEST:,} are read"
        raise UserError(where, reason, "name the column of the labels")
    return label


def labels_of(name: str, column: str, every: Iterable[str]) -> Facts:
    """The different labels, in order (integers by their size), and how often each occurs.

    Raises:
      UserError: there are fewer than two.
    """
    counts = Counter(every)
    whole = all(map(WHOLE.fullmatch, counts))
    labels = sorted(counts, key=lambda label: (int(label), label)) if whole else sorted(counts)
    if len(labels) < 2:
        have = f"only {_shown(labels[0])}" if labels else "none"
        raise UserError(
            f"task {name}", f"needs two labels or more; column {column} has {have}", "check it"
        )
    return Facts(labels=tuple(labels), counts=tuple(counts[label] for label in labels))


def number_of(row: Row, label: str, known: Mapping[str, int]) -> int:
    """The number of a row's label.

    Raises:
      UserError: it is not among those that were learnt.
    """
    if label not in known:
        few = ", ".join(one[:40] for one in list(known)[:8]) + (", ..." if len(known) > 8 else "")
        raise UserError(
            f"{row.place}: label {_shown(label)}",
            "is not among those that were learnt",
            f"they are {few}",
        )
    return known[label]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
