"""Metrics of classification and multi-label classification."""

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

TINY = float(np.finfo(np.float32).tiny)  # replaces probabilities that underflow float32


def classification(
    labels: Sequence[str], targets: np.ndarray, probabilities: np.ndarray
) -> Metrics:
    """Evaluate classification: one of C labels for each of N examples.

    Metrics: accuracy; f1_macro (the mean of the labels' F1) and f1_micro; matthews, the multi-class
    correlation (Gorodkin 2004); loss, the mean cross-entropy in nats. f1_macro skips labels that
    are neither true nor predicted anywhere. Tables: "confusion" (labels, counts [C][C], true labels
    in rows, predicted in columns), "labels" (precision, recall and F1 of each).

    Args:
      labels: C names.
      targets: int [N].
      probabilities: float [N, C], rows sum to 1; the most probable label is predicted.

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
    return Metrics(metrics, len(targets), base.tables, remarks=base.remarks)


def label_metrics(labels: Sequence[str], targets: np.ndarray, predicted: np.ndarray) -> Metrics:
    """Like `classification`, from predicted labels, int [N], without the loss."""
    from sklearn import metrics as sklearn_metrics

    require_equal(len(targets), len(predicted))
    require_examples(len(targets))
    indices = np.arange(len(labels))
    is_true, is_predicted = targets[:, None] == indices, predicted[:, None] == indices
    resampled = _resampled_counts(is_true, is_predicted)
    count = len(targets)
    varied = np.ptp(targets) > 0 and np.ptp(predicted) > 0  # scikit-learn warns otherwise
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
    confusion = sklearn_metrics.confusion_matrix(targets, predicted, labels=indices)
    correct, true_count, predicted_count = (
        confusion.diagonal(),
        confusion.sum(1),
        confusion.sum(0),
    )
    tables = {
        "confusion": {"labels": list(labels), "counts": confusion.tolist()},
        "labels": label_table(labels, correct, true_count, predicted_count),
    }
    remarks = label_remarks(labels, true_count, predicted_count)
    return Metrics(metrics, count, tables, remarks=remarks)


def label_remarks(
    labels: Sequence[str], true_count: np.ndarray, predicted_count: np.ndarray
) -> tuple[str, ...]:
    """Say what always predicting the most frequent label gives, and whether the model does so.

    Args:
      labels: C names.
      true_count: int [C], occurrences in the targets.
      predicted_count: int [C], occurrences in the predictions.
    """
    frequent, used = int(true_count.argmax()), np.flatnonzero(predicted_count)
    share = true_count[frequent] / true_count.sum()
    remarks = [f"always predicting {labels[frequent]!r} has accuracy {share:.4f}"]
    if len(used) == 1:
        remarks.append(f"the model predicts {labels[used[0]]!r} every time")
    return tuple(remarks)


def multilabel(
    labels: Sequence[str],
    targets: np.ndarray,
    probabilities: np.ndarray,
    threshold: float = 0.5,
) -> Metrics:
    """Evaluate multi-label classification: any of C labels for each of N examples.

    Metrics: f1_micro, f1_macro (without labels that are neither true nor predicted anywhere),
    exact_match (all labels of an example correct), loss (mean binary cross-entropy per example and
    label, in nats). Table: "labels" (precision, recall and F1 of each).

    Args:
      labels: C names.
      targets: bool or 0/1 [N, C].
      probabilities: float [N, C], independent.
      threshold: minimum probability of a predicted label.

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
    is_constant = bool((is_predicted == is_predicted[0]).all()) and (is_true != is_predicted).any()
    predicted = (
        ", ".join(repr(labels[k]) for k in np.flatnonzero(is_predicted[0]).tolist()) or "no label"
    )
    remarks = (f"the model predicts {predicted} every time",) if is_constant else ()
    return Metrics(metrics, len(is_true), {"labels": table}, remarks=remarks)


def label_table(
    labels: Sequence[str], correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray
) -> list[dict[str, Any]]:
    """Compute precision, recall and F1 of each label, as plain data.

    Args:
      labels: C names.
      correct: int [C], true positives.
      targets: int [C], occurrences in the targets.
      predicted: int [C], occurrences in the predictions.
    """
    return [
        {
            "label": name,
            "precision": float(hits / positives) if positives else 0.0,
            "recall": float(hits / support) if support else 0.0,
            "f1": float(2 * hits / (support + positives)) if support + positives else 0.0,
            "truth": int(support),
            "predicted": int(positives),
        }
        for name, hits, support, positives in zip(labels, correct, targets, predicted, strict=True)
    ]


def f1_macro(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Macro F1 [B] from counts [B, C], without labels that are neither true nor predicted."""
    occurs = targets + predicted > 0
    return divide(2 * correct, targets + predicted).sum(1) / np.maximum(occurs.sum(1), 1)


def f1_micro(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Micro F1 [B] from counts [B, C]."""
    return divide(2 * correct.sum(1), (targets + predicted).sum(1))


def matthews(correct: np.ndarray, targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Matthews correlation [B] from counts [B, C]; 0 if constant, as in scikit-learn."""
    count = targets.sum(1)
    numerator = count * correct.sum(1) - (targets * predicted).sum(1)
    denominator = (count**2 - (predicted**2).sum(1)) * (count**2 - (targets**2).sum(1))
    return divide(numerator, np.sqrt(denominator))


def _resampled_counts(
    is_true: np.ndarray, is_predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resample the counts of correct, true and predicted labels, [B, C] each."""
    parts = [is_true & is_predicted, is_true, is_predicted]
    table = np.concatenate(parts, axis=1).astype(np.float32)
    # Counts stay below 2^24, so float32 sums are exact.
    counts = bootstrap(lambda weights: weights.astype(np.float32) @ table, len(table))
    correct, targets, predicted = np.split(counts.astype(np.float64), 3, axis=1)
    return correct, targets, predicted
