"""Labels: one of several for each example, or any number of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.metrics.metric import (
    Metric,
    Metrics,
    bootstrap,
    divide,
    mean,
    metric,
    require_equal,
    require_examples,
)

TINY = float(np.finfo(np.float32).tiny)  # a probability that float32 could not hold


def classification(
    labels: Sequence[str], targets: np.ndarray, probabilities: np.ndarray
) -> Metrics:
    """One of C labels for each of N examples.

    Metrics: accuracy; f1_macro (the mean of the labels' F1) and f1_micro; matthews, the correlation
    for any number of labels (Gorodkin 2004); loss, the mean cross-entropy in nats. A label that is
    neither true nor predicted anywhere does not count in f1_macro. Tables: "confusion" (labels,
    counts [C][C], true labels down, predicted ones across), "labels" (precision, recall, F1 each).

    Args:
      labels: C names.
      targets: int [N].
      probabilities: float [N, C], rows add up to 1; the label predicted is the likeliest.

    Raises:
      UserError: there are no examples.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities, np.float64)
    require_equal(len(targets), len(probabilities))
    require_examples(len(targets))
    predicted = probabilities.argmax(1)
    base = label_metrics(labels, targets, predicted)
    nats = -np.log(np.maximum(probabilities[np.arange(len(targets)), targets], TINY))
    metrics = (*base.metrics, mean("loss", nats, larger_is_better=False))
    return Metrics(metrics, len(targets), base.tables)


def label_metrics(labels: Sequence[str], targets: np.ndarray, predicted: np.ndarray) -> Metrics:
    """As classification, from the labels predicted, int [N]: everything but the loss."""
    from sklearn import metrics as sklearn_metrics

    require_equal(len(targets), len(predicted))
    require_examples(len(targets))
    every = np.arange(len(labels))
    is_true, is_predicted = targets[:, None] == every, predicted[:, None] == every
    resampled = _resampled_counts(is_true, is_predicted)
    count = len(targets)
    varied = np.ptp(targets) > 0 and np.ptp(predicted) > 0  # scikit-learn warns of the other case
    correlation = sklearn_metrics.matthews_corrcoef(targets, predicted) if varied else 0.0
    metrics = (
        mean("accuracy", targets == predicted),
        metric(
            "f1_macro",
            sklearn_metrics.f1_score(targets, predicted, average="macro", zero_division=0),
            f1_macro(*resampled),
        ),
        metric(
            "f1_micro",
            sklearn_metrics.f1_score(targets, predicted, average="micro"),
            f1_micro(*resampled),
        ),
        metric("matthews", correlation, matthews(*resampled)),
    )
    confusion = sklearn_metrics.confusion_matrix(targets, predicted, labels=every)
    correct, true, guessed = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    tables = {
        "confusion": {"labels": list(labels), "counts": confusion.tolist()},
        "labels": label_table(labels, correct, true, guessed),
    }
    return Metrics(metrics, count, tables)


def multilabel(
    labels: Sequence[str],
    targets: np.ndarray,
    probabilities: np.ndarray,
    threshold: float = 0.5,
) -> Metrics:
    """Any of C labels for each of N examples.

    Metrics: f1_micro, f1_macro (labels that are neither true nor predicted anywhere do not count),
    exact_match (all labels of an example correct), loss (mean binary cross-entropy per example and
    label, in nats). Table: "labels" (precision, recall and F1 of each).

    Args:
      labels: C names.
      targets: bool or 0/1 [N, C].
      probabilities: float [N, C], each on its own.
      threshold: a label is predicted from this probability on.

    Raises:
      UserError: there are no examples.
    """
    from sklearn import metrics as sklearn_metrics

    is_true, probabilities = np.asarray(targets) > 0, np.asarray(probabilities, np.float64)
    require_equal(len(is_true), len(probabilities))
    require_examples(len(is_true))
    is_predicted = probabilities >= threshold
    resampled = _resampled_counts(is_true, is_predicted)
    micro = sklearn_metrics.f1_score(is_true, is_predicted, average="micro", zero_division=0)
    macro = sklearn_metrics.f1_score(is_true, is_predicted, average="macro", zero_division=np.nan)
    nats = -np.log(np.maximum(np.where(is_true, probabilities, 1 - probabilities), TINY))
    metrics: tuple[Metric, ...] = (
        metric("f1_micro", micro, f1_micro(*resampled)),
        metric("f1_macro", np.nan_to_num(macro), f1_macro(*resampled)),
        mean("exact_match", (is_true == is_predicted).all(1)),
        mean("loss", nats.mean(1), larger_is_better=False),
    )
    correct = (is_true & is_predicted).sum(0)
    table = label_table(labels, correct, is_true.sum(0), is_predicted.sum(0))
    return Metrics(metrics, len(is_true), {"labels": table})


def label_table(
    labels: Sequence[str], correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each label as plain data.

    Args:
      labels: C names.
      correct: int [C], how often each label was predicted where it is true.
      targets: int [C], how often it is true.
      predicted: int [C], how often it was predicted.
    """
    return [
        {
            "label": name,
            "precision": float(right / guessed) if guessed else 0.0,
            "recall": float(right / true) if true else 0.0,
            "f1": float(2 * right / (true + guessed)) if true + guessed else 0.0,
            "truth": int(true),
            "predicted": int(guessed),
        }
        for name, right, true, guessed in zip(labels, correct, targets, predicted, strict=True)
    ]


def f1_macro(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[B] from counts [B, C]; labels that are neither true nor predicted do not count."""
    seen = targets + predicted > 0
    return divide(2 * correct, targets + predicted).sum(1) / np.maximum(seen.sum(1), 1)


def f1_micro(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[B] from counts [B, C]."""
    return divide(2 * correct.sum(1), (targets + predicted).sum(1))


def matthews(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[B] from counts [B, C] of single labels; 0 where all is one label, as in scikit-learn."""
    count = targets.sum(1)
    above = count * correct.sum(1) - (targets * predicted).sum(1)
    below = (count**2 - (predicted**2).sum(1)) * (count**2 - (targets**2).sum(1))
    return divide(above, np.sqrt(below))


def _resampled_counts(
    is_true: np.ndarray, is_predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each label is predicted correctly, is true, and is predicted, [B, C] each."""
    parts = [is_true & is_predicted, is_true, is_predicted]
    table = np.concatenate(parts, axis=1).astype(np.float32)
    # Counts stay below 2^24, so float32 adds them up exactly.
    counts = bootstrap(lambda weights: weights.astype(np.float32) @ table, len(table))
    correct, targets, predicted = np.split(counts.astype(np.float64), 3, axis=1)
    return correct, targets, predicted
