"""Figures by name, as a person reads them: "macro F1", "91.2 %"."""

from collections.abc import Iterable

_NAMES = {
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
_SHARES = {
    "accuracy",
    "f1",
    "f1_macro",
    "f1_micro",
    "precision",
    "recall",
    "exact_match",
    "answered_f1",
    "answered_exact_match",
    "unanswered_accuracy",
}
_POINTS = {"bleu", "chrf"}

NOT_FIGURES = {
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
"""What else a record of metrics holds (of runs of tasks, whose bits per byte are null)."""


def in_words(name: str) -> str:
    """A figure's name for a person; of "TASK.figure" the figure's."""
    plain = name.rpartition(".")[2]
    return _NAMES.get(plain, plain.replace("_", " "))


def is_share(name: str) -> bool:
    """Whether a figure is a share of one, to be shown in per cent."""
    return name.rpartition(".")[2] in _SHARES


def value_in_words(name: str, value: float, places: int = 2) -> str:
    """A figure's value for a person: shares in per cent, scores of 100 points with one digit."""
    if is_share(name):
        return f"{100 * value:.{places}f} %"
    if name.rpartition(".")[2] in _POINTS:
        return f"{value:.{max(1, places - 1)}f}"
    return f"{value:.{places + 2}f}" if abs(value) < 1e4 else f"{value:.4g}"


def task_figures(names: Iterable[str]) -> dict[str, list[str]]:
    """Task -> the names of its figures, in their order, of a record of an evaluation of tasks.

    A single task's figures are found under "". Losses come last; a record of anything else than
    tasks has none.
    """
    found: dict[str, list[str]] = {}
    names = list(names)
    for name in names:
        task, _, plain = name.rpartition(".")
        if plain == "examples":
            found[task] = []
    for name in names:
        task, _, plain = name.rpartition(".")
        if task in found and plain not in NOT_FIGURES:
            found[task].append(name)
    return {
        task: sorted(own, key=lambda name: name.rpartition(".")[2] == "loss")
        for task, own in found.items()
    }
