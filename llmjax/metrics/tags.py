"""Tags of words: whole entities as CoNLL's shared tasks count them, or tags one by one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.metrics.labels import label_metrics, label_table
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
    """Words first ... last - 1, of a kind such as "PER"."""

    kind: str
    first: int
    last: int


def tags(truth: Tags, predicted: Tags) -> Metrics:
    """Entities where any true tag is of the form B-X or I-X, single tags elsewhere.

    Of single tags: the metrics of `labels.label_metrics` over all words.

    Args:
      truth: the tags of each word of each sentence.
      predicted: likewise, as many.

    Raises:
      UserError: there are no sentences, or no words.
    """
    if has_entities(truth):
        return entities(truth, predicted)
    _check(truth, predicted)
    names = sorted({tag for sentences in (truth, predicted) for tags in sentences for tag in tags})
    number = {name: at for at, name in enumerate(names)}
    first, second = (
        np.array([number[tag] for tags in sentences for tag in tags])
        for sentences in (truth, predicted)
    )
    base = label_metrics(names, first, second)
    return Metrics(base.metrics, len(truth), base.tables)


def entities(truth: Tags, predicted: Tags) -> Metrics:
    """Whole entities: correct where type and both ends are.

    Metrics: f1, precision, recall (over all entities of all sentences), accuracy (of single tags).
    Table: "labels" (precision, recall and F1 of each type). Intervals come from resampling
    sentences.

    Args:
      truth: the tags of each word of each sentence: "O", "B-PER", "I-PER", ...
      predicted: likewise, as many.

    Raises:
      UserError: there are no sentences, or no words.
    """
    _check(truth, predicted)
    true, guessed = ([set(spans(tags)) for tags in each] for each in (truth, predicted))
    correct = [a & b for a, b in zip(true, guessed, strict=True)]
    parts = (correct, true, guessed)
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
    return Metrics((*scores, accuracy), len(truth), {"labels": table})


def has_entities(sentences: Tags) -> bool:
    """Whether any tag is of the form B-X or I-X."""
    return any(tag[:2] in ("B-", "I-") for tags in sentences for tag in tags)


def spans(tags: Iterable[str]) -> list[Entity]:
    """The entities of a sentence, as CoNLL's script conlleval finds them.

    B-X begins one, and so does I-X behind another kind or outside any: no tag is refused. E-X and
    S-X (the last word, the only word) are known too.
    """
    found: list[Entity] = []
    first, kind, over = 0, "", True  # of the entity that is open, over behind E and S
    count = 0
    for at, tag in enumerate(tags):
        count = at + 1
        mark, _, name = tag.partition("-")
        outside = mark not in ("B", "I", "E", "S")
        begins = not outside and (over or mark in ("B", "S") or name != kind)
        if not over and (outside or begins):
            found.append(Entity(kind, first, at))
            over = True
        if begins:
            first, kind, over = at, name, False
        if mark in ("E", "S"):
            found.append(Entity(kind, first, at + 1))
            over = True
    if not over:
        found.append(Entity(kind, first, count))
    return found


def _scores(counts: np.ndarray) -> np.ndarray:
    """[B, (correct, true, predicted)] to [B, (F1, precision, recall)]; 0 / 0 is 0."""
    correct, true, predicted = counts.T
    pairs = [(2 * correct, true + predicted), (correct, predicted), (correct, true)]
    return np.stack([divide(*pair) for pair in pairs], axis=1)


def _check(truth: Tags, predicted: Tags) -> None:
    require_equal(len(truth), len(predicted))
    for a, b in zip(truth, predicted, strict=True):
        require_equal(len(a), len(b))
    require_examples(sum(map(len, truth)))
