"""Metrics by name, as a person reads them: "macro F1", "91.2 %"."""

from collections.abc import Iterable

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
_FRACTIONS |= {"answered_f1", "answered_exact_match", "unanswered_accuracy"}
_POINTS = {"bleu", "chrf"}

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
    "skipped",
    "tokens",
}
"""Keys of a line of metrics.jsonl that are no metric of a task."""


def in_words(name: str) -> str:
    """A metric's name for a person; of "TASK.metric" the metric's."""
    plain = name.rpartition(".")[2]
    return _DISPLAY_NAMES.get(plain, plain.replace("_", " "))


def is_fraction(name: str) -> bool:
    """Whether a metric lies between 0 and 1 and is shown in per cent."""
    return name.rpartition(".")[2] in _FRACTIONS


def value_in_words(name: str, value: float, places: int = 2) -> str:
    """A metric's value for a person: fractions in per cent, scores of 100 points with one digit."""
    if is_fraction(name):
        return f"{100 * value:.{places}f} %"
    if name.rpartition(".")[2] in _POINTS:
        return f"{value:.{max(1, places - 1)}f}"
    return f"{value:.{places + 2}f}" if abs(value) < 1e4 else f"{value:.4g}"


def task_metrics(names: Iterable[str]) -> dict[str, list[str]]:
    """Task -> the names of its metrics, losses last, from the keys of a logged evaluation.

    A single task's metrics are found under "". Evaluations of plain text give an empty dict.
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
