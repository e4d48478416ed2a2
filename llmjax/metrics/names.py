"""Display names and formats of metrics: "macro F1", "91.2 %"."""

from collections.abc import Iterable, Mapping
from typing import Any

_DISPLAY_NAMES = {
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "answered_f1": "F1 where there is an answer",
    "answered_exact_match": "exact match where there is an answer",
    "unanswered_accuracy": "accuracy where there is none",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "bleu": "BLEU",
    "chrf": "chrF2",
    "bits_per_byte": "bits per byte",
    "margin": "reward margin",
}
_FRACTIONS = {"accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "exact_match"}
_FRACTIONS |= {"accuracy_per_byte", "acc", "acc_norm", "acc_bytes", "chance"}
_FRACTIONS |= {"answered_f1", "answered_exact_match", "unanswered_accuracy"}
_POINTS = {"bleu", "chrf"}
_COSTS = {"loss", "bits_per_byte", "mean_squared_error", "mean_absolute_error"}
_COSTS |= {"perplexity", "word_perplexity", "byte_perplexity", "brier_score", "ter"}

OTHER_KEYS = {
    "step",
    "kind",
    "time",
    "bits_per_byte",
    "examples",
    "heldout_bytes",
    "heldout_tokens",
    "device_memory_bytes",
    "epoch",
    "goodput",
    "skipped",
    "tokens",
}
"""Keys of a line of metrics.jsonl that are not task metrics."""


def display_name(name: str) -> str:
    """Return a metric's display name; of "TASK.metric" that of the metric."""
    plain = name.rpartition(".")[2]
    return _DISPLAY_NAMES.get(plain, plain.replace("_", " "))


def is_fraction(name: str) -> bool:
    """Whether a metric is between 0 and 1 and shown in per cent."""
    return name.rpartition(".")[2] in _FRACTIONS


def is_cost(name: str) -> bool:
    """Whether smaller values of a metric are better."""
    return name.rpartition(".")[2] in _COSTS


def evaluation_task_metrics(record: Mapping[str, Any]) -> list[str]:
    """The metrics in a record of evaluation.tasks: what has a standard error, known or not."""
    return [name for name in record if f"{name}_stderr" in record]


def task_title(name: str) -> str:
    """What a metric with its task is called: "quiz accuracy", "gsm8k strict-match exact match"."""
    return f"{name.rpartition('.')[0].replace('.', ' ')} {display_name(name)}".strip()


def headline_metric(record: Mapping[str, Any], preferred: str | None = None) -> str | None:
    """The metric to judge a logged evaluation by: the preferred one, else the first of the tasks,
    bits per byte or the loss; None if it has none of them."""
    tasks = task_metrics(record)
    names = (preferred, *next(iter(tasks.values()), []), "bits_per_byte", "loss")
    return next((name for name in names if name and record.get(name) is not None), None)


def judging_metric(
    record: Mapping[str, Any], preferred: str | None, *, is_measured_by_tasks: bool
) -> str | None:
    """The metric of a line of metrics.jsonl that judges its run; None if it has none.

    Args:
      record: of any kind.
      preferred: evaluation.metric of the run.
      is_measured_by_tasks: whether that is a metric of evaluation.tasks, whose lines then count
        instead of those of the validation set.
    """
    if record.get("kind") != ("tasks" if is_measured_by_tasks else "eval"):
        return None
    if not is_measured_by_tasks:
        return headline_metric(record, preferred)
    return preferred if preferred is not None and record.get(preferred) is not None else None


def display_value(name: str, value: float, places: int = 2) -> str:
    """Format a metric's value: fractions in per cent, scores out of 100 with one decimal."""
    if is_fraction(name) and abs(value) <= 1:
        return f"{100 * value:.{places}f} %"
    if name.rpartition(".")[2] in _POINTS:
        return f"{value:.{max(1, places - 1)}f}"
    return f"{value:.{places + 2}f}" if abs(value) < 1e4 else f"{value:.4g}"


def task_metrics(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the keys of a logged evaluation by task, losses last.

    The key is "" for a single task. Evaluations of plain text return an empty dict.
    """
    split = [(name, *name.rpartition(".")[::2]) for name in names]
    metrics: dict[str, list[str]] = {task: [] for _, task, key in split if key == "examples"}
    for name, task, key in split:
        if task in metrics and key not in OTHER_KEYS:
            metrics[task].append(name)
    return {
        task: sorted(keys, key=lambda name: name.rpartition(".")[2] == "loss")
        for task, keys in metrics.items()
    }
