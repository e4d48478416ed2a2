"""Metrics of token classification: entities as in CoNLL's shared tasks, or single tags."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.metrics.labels import label_metrics, label_remarks, label_table
from llmjax.metrics.metric import (
    Metrics,
    bootstrap,
    divide,
    metric,
    ratio,
    require_equal,
    require_examples,
)

Tags = Sequence[Sequence[str]]


class Entity(NamedTuple):
    """An entity of words [first, last), of a kind such as "PER"."""

    kind: str
    first: int
    last: int


def tags(truth: Tags, predicted: Tags) -> Metrics:
    """Evaluate entities if any true tag is of the form B-X or I-X, else single tags.

    Single tags have the metrics of `labels.label_metrics` over all words.

    Args:
      truth: the tags of each word of each sentence.
      predicted: the predicted tags, of the same shape.

    Raises:
      UserError: there are no sentences, or no words.
    """
    if has_entities(truth):
        return entities(truth, predicted)
    _check(truth, predicted)
    names = sorted({tag for sentences in (truth, predicted) for tags in sentences for tag in tags})
    indices = {name: index for index, name in enumerate(names)}
    targets, predictions = (
        np.array([indices[tag] for tags in sentences for tag in tags])
        for sentences in (truth, predicted)
    )
    base = label_metrics(names, targets, predictions)
    return Metrics(base.metrics, len(truth), base.tables, remarks=base.remarks)


def entities(truth: Tags, predicted: Tags) -> Metrics:
    """Evaluate entities: correct if type and boundaries match.

    Metrics: f1, precision, recall (over all entities of all sentences), accuracy (of single tags).
    Table: "labels" (precision, recall and F1 of each type). Intervals resample sentences.

    Args:
      truth: the tags of each word of each sentence: "O", "B-PER", "I-PER", ...
      predicted: the predicted tags, of the same shape.

    Raises:
      UserError: there are no sentences, or no words.
    """
    _check(truth, predicted)
    true_spans, predicted_spans = (
        [set(spans(tags)) for tags in sentences] for sentences in (truth, predicted)
    )
    correct = [a & b for a, b in zip(true_spans, predicted_spans, strict=True)]
    parts = (correct, true_spans, predicted_spans)
    counts = np.array([[len(part) for part in row] for row in zip(*parts, strict=True)], np.float64)
    resampled = bootstrap(lambda weights: _scores(weights @ counts), len(counts))
    overall = _scores(counts.sum(0, keepdims=True))[0]
    names = ("f1", "precision", "recall")
    scores = [metric(name, overall[k], resampled[:, k]) for k, name in enumerate(names)]
    equal = [sum(map(str.__eq__, *pair)) for pair in zip(truth, predicted, strict=True)]
    accuracy = ratio("accuracy", np.array(equal), np.array(list(map(len, truth))))
    by_kind = [Counter(entity.kind for row in part for entity in row) for part in parts]
    kinds = sorted(by_kind[1] | by_kind[2])
    table = label_table(kinds, *(np.array([part[kind] for kind in kinds]) for part in by_kind))
    return Metrics(
        (*scores, accuracy), len(truth), {"labels": table}, remarks=_tag_remarks(truth, predicted)
    )


def has_entities(sentences: Tags) -> bool:
    """Whether any tag is of the form B-X or I-X."""
    return any(tag[:2] in ("B-", "I-") for tags in sentences for tag in tags)


def spans(tags: Iterable[str]) -> list[Entity]:
    """Extract the entities of a sentence, like CoNLL's script conlleval.

    B-X starts an entity, and so does I-X after another kind or outside any: no tag is invalid. E-X
    and S-X (last word, only word) are supported too.
    """
    entities: list[Entity] = []
    first, kind, closed = 0, "", True  # the current entity, closed after E and S
    count = 0
    for index, tag in enumerate(tags):
        count = index + 1
        mark, _, name = tag.partition("-")
        outside = mark not in ("B", "I", "E", "S")
        begins = not outside and (closed or mark in ("B", "S") or name != kind)
        if not closed and (outside or begins):
            entities.append(Entity(kind, first, index))
            closed = True
        if begins:
            first, kind, closed = index, name, False
        if mark in ("E", "S"):
            entities.append(Entity(kind, first, index + 1))
            closed = True
    if not closed:
        entities.append(Entity(kind, first, count))
    return entities


def _tag_remarks(truth: Tags, predicted: Tags) -> tuple[str, ...]:
    """Say what the most frequent tag gives everywhere: a high accuracy, without an entity."""
    counts = [
        Counter(tag for tags in sentences for tag in tags) for sentences in (truth, predicted)
    ]
    names = sorted(counts[0] | counts[1])
    return label_remarks(names, *(np.array([count[name] for name in names]) for count in counts))


def _scores(counts: np.ndarray) -> np.ndarray:
    """Convert [B, (correct, true, predicted)] to [B, (F1, precision, recall)]; 0 / 0 is 0."""
    correct, true, predicted = counts.T
    pairs = [(2 * correct, true + predicted), (correct, predicted), (correct, true)]
    return np.stack([divide(*pair) for pair in pairs], axis=1)


def _check(truth: Tags, predicted: Tags) -> None:
    require_equal(len(truth), len(predicted))
    for a, b in zip(truth, predicted, strict=True):
        require_equal(len(a), len(b))
    require_examples(sum(map(len, truth)))
