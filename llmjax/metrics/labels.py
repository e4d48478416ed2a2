"""Labels: one of several for each example, or any number of them."""

from collections.abc import Sequence

import numpy as np

from llmjax.metrics.bootstrap import bootstrap, mean, measure
from llmjax.metrics.figures import Measure, Measures, label_table, require_equal, require_examples

TINY = float(np.finfo(np.float32).tiny)  # a probability that float32 could not hold


def classification(labels: Sequence[str], truth: np.ndarray, probabilities: np.ndarray) -> Measures:
    """One of C labels for each of N examples.

    Figures: accuracy; f1_macro (the mean of the labels' F1) and f1_micro; matthews, the correlation
    for any number of labels (Gorodkin 2004); loss, the mean cross-entropy in nats. A label that is
    neither true nor told anywhere does not count in f1_macro. Tables: "confusion" (labels, counts
    [C][C], truth down, told across), "labels" (precision, recall and F1 of each).

    Args:
      labels: C names.
      truth: int [N].
      probabilities: float [N, C], rows add up to 1; the label told is the likeliest.

    Raises:
      UserError: there are no examples.
    """
    truth, probabilities = np.asarray(truth), np.asarray(probabilities, np.float64)
    require_equal(len(truth), len(probabilities))
    require_examples(len(truth))
    told = probabilities.argmax(1)
    found = label_figures(labels, truth, told)
    nats = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], TINY))
    figures = (*found.figures, mean("loss", nats, larger_is_better=False))
    return Measures(figures, len(truth), found.tables)


def label_figures(labels: Sequence[str], truth: np.ndarray, told: np.ndarray) -> Measures:
    """As classification, from the labels told, int [N]: everything but the loss."""
    from sklearn import metrics

    require_equal(len(truth), len(told))
    require_examples(len(truth))
    every = np.arange(len(labels))
    is_true, is_told = truth[:, None] == every, told[:, None] == every
    drawn = _drawn(is_true, is_told)
    count = len(truth)
    varied = np.ptp(truth) > 0 and np.ptp(told) > 0  # scikit-learn warns of the other case
    matthews = metrics.matthews_corrcoef(truth, told) if varied else 0.0
    figures = (
        mean("accuracy", truth == told),
        measure(
            "f1_macro",
            metrics.f1_score(truth, told, average="macro", zero_division=0),
            _f1_macro(*drawn),
        ),
        measure("f1_micro", metrics.f1_score(truth, told, average="micro"), _f1_micro(*drawn)),
        measure("matthews", matthews, _matthews(count, *drawn)),
    )
    confusion = metrics.confusion_matrix(truth, told, labels=every)
    right, true, said = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    tables = {
        "confusion": {"labels": list(labels), "counts": confusion.tolist()},
        "labels": label_table(tuple(labels), right, true, said),
    }
    return Measures(figures, count, tables)


def multilabel(
    labels: Sequence[str],
    truth: np.ndarray,
    probabilities: np.ndarray,
    threshold: float = 0.5,
) -> Measures:
    """Any of C labels for each of N examples.

    Figures: f1_micro, f1_macro (labels that are neither true nor told anywhere do not count),
    exact_match (all labels of an example right), loss (mean binary cross-entropy per example and
    label, in nats). Table: "labels" (precision, recall and F1 of each).

    Args:
      labels: C names.
      truth: bool or 0/1 [N, C].
      probabilities: float [N, C], each on its own.
      threshold: a label is told from this probability on.

    Raises:
      UserError: there are no examples.
    """
    from sklearn import metrics

    is_true, probabilities = np.asarray(truth) > 0, np.asarray(probabilities, np.float64)
    require_equal(len(is_true), len(probabilities))
    require_examples(len(is_true))
    is_told = probabilities >= threshold
    drawn = _drawn(is_true, is_told)
    micro = metrics.f1_score(is_true, is_told, average="micro", zero_division=0)
    macro = metrics.f1_score(is_true, is_told, average="macro", zero_division=np.nan)
    nats = -np.log(np.maximum(np.where(is_true, probabilities, 1 - probabilities), TINY))
    figures: tuple[Measure, ...] = (
        measure("f1_micro", micro, _f1_micro(*drawn)),
        measure("f1_macro", np.nan_to_num(macro), _f1_macro(*drawn)),
        mean("exact_match", (is_true == is_told).all(1)),
        mean("loss", nats.mean(1), larger_is_better=False),
    )
    right = (is_true & is_told).sum(0)
    table = label_table(tuple(labels), right, is_true.sum(0), is_told.sum(0))
    return Measures(figures, len(is_true), {"labels": table})


def _drawn(is_true: np.ndarray, is_told: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each label is told rightly, is true, and is told in each resample: [B, C] each."""
    table = np.concatenate([is_true & is_told, is_true, is_told], axis=1).astype(np.float32)
    # Counts stay below 2^24, so float32 adds them up exactly.
    counts = bootstrap(lambda weights: weights.astype(np.float32) @ table, len(table))
    right, true, told = np.split(counts.astype(np.float64), 3, axis=1)
    return right, true, told


def _f1_macro(right: np.ndarray, true: np.ndarray, told: np.ndarray) -> np.ndarray:
    seen = true + told > 0
    each = np.divide(2 * right, true + told, out=np.zeros_like(right), where=seen)
    return each.sum(1) / np.maximum(seen.sum(1), 1)


def _f1_micro(right: np.ndarray, true: np.ndarray, told: np.ndarray) -> np.ndarray:
    both = (true + told).sum(1)
    return np.divide(2 * right.sum(1), both, out=np.zeros_like(both), where=both > 0)


def _matthews(count: int, right: np.ndarray, true: np.ndarray, told: np.ndarray) -> np.ndarray:
    """0 where all is one label, as scikit-learn has it."""
    above = count * right.sum(1) - (true * told).sum(1)
    below = np.sqrt((count**2 - (told**2).sum(1)) * (count**2 - (true**2).sum(1)))
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
