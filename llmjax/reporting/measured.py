"""measures.json as the page shows it: each task's figures, confusions and worst mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.evaluation.baselines import Baseline
from llmjax.metrics.names import in_words, is_fraction, value_in_words
from llmjax.reporting.confusion import Confusion, confusion
from llmjax.reporting.numbers import count, percent
from llmjax.reporting.record import known_number, part
from llmjax.reporting.samples import visible
from llmjax.storage.json_documents import DOCUMENT, read_json

MOST_LABELS = 40
"""Labels whose precision and recall are shown."""
MOST_MISTAKES = 20


@dataclass(frozen=True)
class Measured:
    """A figure with its interval; `low` and `width` place that on a line from 0 to 100 %."""

    name: str
    words: str
    value: str
    interval: str
    low: str = ""
    width: str = ""


@dataclass(frozen=True)
class Label:
    """How well one label is told."""

    name: str
    precision: str
    recall: str
    f1: str
    truth: str
    told: str


@dataclass(frozen=True)
class Mistake:
    """A row that was told wrongly."""

    text: str
    truth: str
    told: str
    place: str


@dataclass(frozen=True)
class Task:
    """What is known of a task."""

    name: str
    about: str
    figures: Sequence[Measured]
    signature: str
    confusion: Confusion | None
    labels: Sequence[Label]
    labels_note: str
    mistakes: Sequence[Mistake]


def read_measures(folder: Path) -> list[Task]:
    """The tasks of RUN/measures.json; none where it is missing or is something else."""
    try:
        found = read_json(folder / "measures.json", limits=DOCUMENT)
    except UserError:
        return []
    if not isinstance(found, dict):
        return []
    return [_task(name, one) for name, one in found.items() if isinstance(one, dict)]


def _task(name: str, found: Mapping[str, Any]) -> Task:
    tables = part(found, "tables")
    labels = [one for one in listed(tables.get("labels")) if isinstance(one, dict)]
    labels.sort(key=lambda one: -(known_number(one, "truth") or 0))
    more = len(labels) - MOST_LABELS
    note = f"The {MOST_LABELS} most frequent labels; {more} more are left out." if more > 0 else ""
    mistakes = [one for one in listed(found.get("mistakes")) if isinstance(one, dict)]
    return Task(
        name=name,
        about=_about(found),
        figures=_figures(part(found, "metrics") or part(found, "figures")),  # until format 4
        signature=str(found.get("signature") or ""),
        confusion=confusion(part(tables, "confusion")),
        labels=[_label(one) for one in labels[:MOST_LABELS]],
        labels_note=note,
        mistakes=[_mistake(one) for one in mistakes[:MOST_MISTAKES]],
    )


def _about(found: Mapping[str, Any]) -> str:
    """What was measured, when, and how sure that is."""
    examples, step = (known_number(found, key) for key in ("examples", "step"))
    kind = str(found.get("kind") or "")
    said = f"A task of kind {kind}. " if kind else ""
    said += f"Measured at step {count(step)}" if step is not None else "Measured"
    said += f" on {count(examples)} examples: " if examples is not None else " on "
    said += f"{found.get('data') or 'unknown rows'}. "
    return said + "Intervals are of 95 %, from drawing the examples anew with replacement."


def _figures(found: Mapping[str, Any]) -> list[Measured]:
    figures = []
    for name in found:
        one = part(found, name)
        value, low, high = (known_number(one, key) for key in ("value", "low", "high"))
        if value is None:
            figures.append(Measured(name, in_words(name), "not finite", ""))
            continue
        interval, place = "", ("", "")
        if low is not None and high is not None and high > low:
            interval = f"{_short(name, low)} to {value_in_words(name, high)}"
            if is_fraction(name) and 0 <= low <= high <= 1:
                place = f"{100 * low:.2f}", f"{100 * (high - low):.2f}"
        words = in_words(name)
        figures.append(Measured(name, words, value_in_words(name, value), interval, *place))
    return figures


def _short(name: str, value: float) -> str:
    return value_in_words(name, value).removesuffix(" %")


def _label(found: Mapping[str, Any]) -> Label:
    shares = (known_number(found, key) for key in ("precision", "recall", "f1"))
    predicted = "predicted" if "predicted" in found else "told"  # until format 4
    counts = (known_number(found, key) for key in ("truth", predicted))
    return Label(
        visible(str(found.get("label", ""))),
        *("" if share is None else percent(share) for share in shares),
        *("" if number is None else count(number) for number in counts),
    )


def _mistake(found: Mapping[str, Any]) -> Mistake:
    predicted = "predicted" if "predicted" in found else "told"  # until format 4
    text, truth, told = (visible(str(found.get(key, ""))) for key in ("text", "truth", predicted))
    place = str(found.get("place", ""))
    where, _, line = place.rpartition(" line ")
    return Mistake(text, truth, told, f"{Path(where).name} line {line}" if where else place)


def known_baselines(value: Any) -> list[Baseline]:
    """The compressors' figures that a list holds; what is something else is left out."""
    found = []
    for one in listed(value):
        if isinstance(one, dict) and isinstance(one.get("name"), str):
            numbers = [
                known_number(one, key) for key in ("compressed_bytes", "original_bytes", "seconds")
            ]
            packed, size, seconds = (-1.0 if number is None else number for number in numbers)
            if packed >= 0 and size > 0 and seconds >= 0:
                found.append(Baseline(one["name"], int(packed), int(size), seconds))
    return found


def listed(value: Any) -> list[Any]:
    """The list that a value is; an empty one of anything else."""
    return value if isinstance(value, list) else []
