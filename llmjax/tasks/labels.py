"""Labels in tables: as text, in order, by number."""

from collections import Counter
from collections.abc import Iterable, Mapping

from llmjax.data.tables import Row, text_at
from llmjax.errors import UserError
from llmjax.tasks.task import Facts


def label_at(row: Row, column: str) -> str:
    """The label of a row, as text.

    Raises:
      UserError: there is none, or it is neither text nor an integer.
    """
    value = row.values[column] if column in row.values else text_at(row, column)
    if isinstance(value, bool | str | int) and str(value).strip():
        return str(value).strip()
    raise UserError(
        f"{row.place}, column {column}", f"{value!r} is no label", "give text or an integer"
    )


def labels_of(name: str, column: str, every: Iterable[str]) -> Facts:
    """The different labels, in order (numbers by their size), and how often each occurs.

    Raises:
      UserError: there are fewer than two.
    """
    counts = Counter(every)
    whole = all(label.lstrip("-").isdecimal() for label in counts)
    labels = sorted(counts, key=int) if whole else sorted(counts)
    if len(labels) < 2:
        have = f"only {labels[0]!r}" if labels else "none"
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
        few = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
        raise UserError(
            f"{row.place}: label {label!r}",
            "is not among those that were learnt",
            f"they are {few}",
        )
    return known[label]
