"""Fine-tuned runs on the page: sections from measures.json, headline and tables of tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.metrics.names import display_name, display_value, is_fraction, task_metrics
from llmjax.reporting.confusion import Confusion, confusion
from llmjax.reporting.facts import UNKNOWN, Fact
from llmjax.reporting.format import count, duration, percent, short, show_controls
from llmjax.reporting.records import (
    History,
    Line,
    finite_number,
    items,
    last,
    number,
    section,
    wall_seconds,
)
from llmjax.run.config.schema import Config
from llmjax.storage.json_documents import DOCUMENT, read_json
from llmjax.tasks.config import name_of

MAX_LABELS = 40
"""Labels whose precision and recall to show."""
MAX_LABEL_SHARES = 12
"""Labels whose share of the examples to show."""
MAX_MISTAKES = 20

ACCOUNTING = (
    "Metrics are computed on validation examples, which are never trained on; training curves show "
    "single batches. Intervals come from bootstrap resampling of the examples (the percentile "
    "bootstrap): they cover the variation over similar examples, not over training runs."
)


@dataclass(frozen=True)
class MetricRow:
    """A metric with its interval; `low` and `width` draw that on a line from 0 to 100 %."""

    label: str
    value: str
    interval: str
    low: str = ""
    width: str = ""


@dataclass(frozen=True)
class LabelRow:
    """The metrics of one label."""

    name: str
    precision: str
    recall: str
    f1: str
    true: str
    predicted: str


@dataclass(frozen=True)
class Mistake:
    """An example whose prediction is wrong."""

    text: str
    truth: str
    predicted: str
    place: str


@dataclass(frozen=True)
class TaskSection:
    """The section of a task."""

    name: str
    about: str
    metrics: Sequence[MetricRow]
    notes: Sequence[str]
    signature: str
    confusion: Confusion | None
    labels: Sequence[LabelRow]
    labels_note: str
    mistakes: Sequence[Mistake]


def read_measures(folder: Path) -> list[TaskSection]:
    """Reads the tasks of RUN/measures.json; returns none if it is missing or invalid."""
    try:
        document = read_json(folder / "measures.json", limits=DOCUMENT)
    except UserError:
        return []
    if not isinstance(document, dict):
        return []
    return [_task(name, task) for name, task in document.items() if isinstance(task, dict)]


def _task(name: str, task: Mapping[str, Any]) -> TaskSection:
    tables = section(task, "tables")
    labels = [label for label in items(tables.get("labels")) if isinstance(label, dict)]
    labels.sort(key=lambda label: -(finite_number(label, "truth") or 0))
    more = len(labels) - MAX_LABELS
    note = f"The {MAX_LABELS} most frequent labels; {more} more are omitted." if more > 0 else ""
    mistakes = [mistake for mistake in items(task.get("mistakes")) if isinstance(mistake, dict)]
    return TaskSection(
        name=name,
        about=_about(task),
        metrics=_metrics(section(task, "metrics") or section(task, "figures")),  # until format 4
        notes=[str(note) for note in items(task.get("notes"))],
        signature=str(task.get("signature") or ""),
        confusion=confusion(section(tables, "confusion")),
        labels=[_label(label) for label in labels[:MAX_LABELS]],
        labels_note=note,
        mistakes=[_mistake(mistake) for mistake in mistakes[:MAX_MISTAKES]],
    )


def _about(task: Mapping[str, Any]) -> str:
    """Describes the evaluation: type of task, checkpoint, data, intervals."""
    examples, step = (finite_number(task, key) for key in ("examples", "step"))
    kind = str(task.get("kind") or "")
    sentence = f"A task of type {kind}. " if kind else ""
    sentence += f"Evaluated at step {count(step)}" if step is not None else "Evaluated"
    sentence += f" on {count(examples)} examples: " if examples is not None else " on "
    sentence += f"{task.get('data') or 'unknown rows'}. "
    return sentence + "Intervals are 95 %, from bootstrap resampling of the examples."


def _metrics(metrics: Mapping[str, Any]) -> list[MetricRow]:
    rows = []
    for name in metrics:
        metric = section(metrics, name)
        value, low, high = (finite_number(metric, key) for key in ("value", "low", "high"))
        if value is None:
            rows.append(MetricRow(display_name(name), "not finite", "n/a"))
            continue
        interval, bar = "n/a", ("", "")
        if low is not None and high is not None and high >= low:
            start = display_value(name, low).removesuffix(" %")
            interval = f"{start} to {display_value(name, high)}"
            if is_fraction(name) and 0 <= low <= high <= 1:
                bar = f"{100 * low:.2f}", f"{100 * (high - low):.2f}"
        rows.append(MetricRow(display_name(name), display_value(name, value), interval, *bar))
    return rows


def _prediction_key(record: Mapping[str, Any]) -> str:
    """Returns the key of a prediction, which was "told" up to format 4."""
    return "predicted" if "predicted" in record else "told"


def _label(label: Mapping[str, Any]) -> LabelRow:
    shares = (finite_number(label, key) for key in ("precision", "recall", "f1"))
    counts = (finite_number(label, key) for key in ("truth", _prediction_key(label)))
    return LabelRow(
        show_controls(str(label.get("label", ""))),
        *("n/a" if share is None else percent(share) for share in shares),
        *("n/a" if value is None else count(value) for value in counts),
    )


def _mistake(mistake: Mapping[str, Any]) -> Mistake:
    keys = ("text", "truth", _prediction_key(mistake))
    text, truth, predicted = (show_controls(str(mistake.get(key, ""))) for key in keys)
    place = str(mistake.get("place", ""))
    path, _, line = place.rpartition(" line ")
    return Mistake(text, truth, predicted, f"{Path(path).name} line {line}" if path else place)


def headline(
    history: History, environment: Mapping[str, Any], tasks: Sequence[TaskSection]
) -> list[Fact]:
    """Returns the first metric of each task, or the first two of a single task, and the cost."""
    if tasks:
        metrics = {task.name: [(row.label, row.value) for row in task.metrics] for task in tasks}
    else:
        logged = task_metrics(dict.fromkeys(name for line in history.evals for name in line))
        metrics = {task: _latest(history, names) for task, names in logged.items()}
    if len(metrics) == 1:
        (rows,) = metrics.values()
        suffixes = (" on validation examples", "")
        facts = [
            Fact(label + suffix, value)
            for (label, value), suffix in zip(rows, suffixes, strict=False)
        ]
    else:
        firsts = [(task, *rows[0]) for task, rows in metrics.items() if rows]
        facts = [Fact(f"{label}, {task}", value) for task, label, value in firsts[:3]]
    seconds = wall_seconds(history, environment)
    tokens = last(history.train, "tokens")
    facts += [Fact("tokens trained on", short(tokens))] if tokens and len(facts) < 3 else []
    return [*facts, *([Fact("wall-clock time", duration(seconds))] if seconds else [])]


def _latest(history: History, names: Sequence[str]) -> list[tuple[str, str]]:
    values = [(name, last(history.evals, name)) for name in names]
    return [
        (display_name(name), display_value(name, value))
        for name, value in values
        if value is not None
    ]


def training_examples(environment: Mapping[str, Any]) -> str:
    """Describes the number of training examples and tasks; empty if unknown."""
    data = section(environment, "data")
    counts = [finite_number(section(data, name), "train_examples") for name in data]
    known = [value for value in counts if value is not None]
    if not known:
        return ""
    tasks = "" if len(known) == 1 else f" of {count(len(known))} tasks"
    return f" on {count(sum(known))} examples{tasks}"


def evaluation_facts(history: History) -> list[Fact]:
    """Returns the metrics of the last evaluation during training."""
    if not history.evals:
        return [Fact("During training", "not evaluated yet")]
    line = history.evals[-1]
    facts = [Fact("Step", count(line["step"]))]
    tasks = task_metrics(line)
    for task, names in tasks.items():
        for name in names:
            label = display_name(name)
            label = f"{task}: {label}" if task else label[:1].upper() + label[1:]
            facts.append(Fact(label, _value(line, name)))
    if len(tasks) > 1:
        facts.append(Fact("Mean loss", _value(line, "loss")))
    return facts


def _value(line: Line, name: str) -> str:
    value = finite_number(line, name)
    return "not finite" if value is None else display_value(name, value)


def data_facts(config: Config, recorded: Mapping[str, Any], history: History) -> list[Fact]:
    """Returns each task's examples and labels."""
    facts: list[Fact] = []
    for task in config.tasks:
        name = name_of(task)
        counts = section(recorded, name)
        examples, tokens, rows = (
            finite_number(counts, key) for key in ("train_examples", "train_tokens", "heldout_rows")
        )
        known = [
            f"{count(examples)} examples" if examples is not None else "",
            f"{short(tokens)} tokens" if tokens is not None else "",
            f"{count(rows)} validation rows" if rows is not None else "",
        ]
        note = f"type {task.kind}" if name != task.kind else ""
        facts.append(Fact(name, ", ".join(filter(None, known)) or UNKNOWN, note))
        if shares := _label_shares(section(counts, "labels")):
            facts.append(Fact("Its labels", shares, "share of the training examples"))
    facts.append(Fact("Tokenizer", config.tokenizer.kind))
    epochs = last(history.train, "epoch")
    if epochs is not None:
        facts.append(Fact("Epochs", f"{epochs:.2f}", "passes through the examples"))
    return facts


def _label_shares(counts: Mapping[str, Any]) -> str:
    known = {name: number(counts, name) for name in counts}
    known = {name: times for name, times in known.items() if times >= 0}
    total = sum(known.values())
    if not total:
        return ""
    largest = sorted(known.items(), key=lambda item: -item[1])
    shares = [f"{name} {percent(times / total)}" for name, times in largest[:MAX_LABEL_SHARES]]
    more = len(known) - MAX_LABEL_SHARES
    return ", ".join(shares) + (f", and {count(more)} more" if more > 0 else "")
