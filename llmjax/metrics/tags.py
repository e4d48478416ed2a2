"""Tags of words: whole entities as CoNLL's shared tasks count them, or tags one by one."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.metrics.bootstrap import bootstrap, measure
from llmjax.metrics.figures import Measure, Measures, label_table, require_equal, require_examples
from llmjax.metrics.labels import label_figures

Tags = Sequence[Sequence[str]]


class Entity(NamedTuple):
    """Words first ... last - 1, of a kind such as "PER"."""

    kind: str
    first: int
    last: int


def tags(truth: Tags, told: Tags) -> Measures:
    """Measures entities where any true tag is of the form B-X or I-X, and single tags elsewhere.

    Of single tags: accuracy and the other figures of llmjax.metrics.classification, without a
    loss, over all words.

    Args:
      truth: the tags of each word of each sentence.
      told: likewise, as many.

    Raises:
      UserError: there are no sentences, or no words.
    """
    if has_entities(truth):
        return entities(truth, told)
    _check(truth, told)
    names = sorted({tag for sentences in (truth, told) for tags in sentences for tag in tags})
    number = {name: at for at, name in enumerate(names)}
    first, second = (
        np.array([number[tag] for tags in sentences for tag in tags]) for sentences in (truth, told)
    )
    found = label_figures(names, first, second)
    return Measures(found.figures, len(truth), found.tables)


def entities(truth: Tags, told: Tags) -> Measures:
    """Whole entities: right where kind and both ends are.

    Figures: f1, precision, recall (over all entities of all sentences), accuracy (of single tags).
    Table: "labels" (precision, recall and F1 of each kind). Intervals come from drawing sentences.

    Args:
      truth: the tags of each word of each sentence: "O", "B-PER", "I-PER", ...
      told: likewise, as many.

    Raises:
      UserError: there are no sentences, or no words.
    """
    _check(truth, told)
    true, said = ([set(spans(tags)) for tags in sentences] for sentences in (truth, told))
    right = [a & b for a, b in zip(true, said, strict=True)]
    counts = np.array(
        [[len(a), len(b), len(c)] for a, b, c in zip(right, true, said, strict=True)], np.float64
    )
    drawn = bootstrap(lambda weights: _scores(weights @ counts), len(counts))
    f1, precision, recall = _scores(counts.sum(0, keepdims=True))[0]
    figures = (
        measure("f1", f1, drawn[:, 0]),
        measure("precision", precision, drawn[:, 1]),
        measure("recall", recall, drawn[:, 2]),
        _accuracy(truth, told),
    )
    by_kind = [
        Counter(entity.kind for one in part for entity in one) for part in (right, true, said)
    ]
    kinds = tuple(sorted(by_kind[1] | by_kind[2]))
    table = label_table(kinds, *(np.array([part[kind] for kind in kinds]) for part in by_kind))
    return Measures(figures, len(truth), {"labels": table})


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
    """[B, (right, true, told)] to [B, (F1, precision, recall)]; 0 / 0 is 0."""
    right, true, told = counts.T
    zero = np.zeros_like(right)
    return np.stack(
        [
            np.divide(2 * right, true + told, out=zero.copy(), where=true + told > 0),
            np.divide(right, told, out=zero.copy(), where=told > 0),
            np.divide(right, true, out=zero.copy(), where=true > 0),
        ],
        axis=1,
    )


def _accuracy(truth: Tags, told: Tags) -> Measure:
    counts = np.array(
        [
            [sum(x == y for x, y in zip(a, b, strict=True)), len(a)]
            for a, b in zip(truth, told, strict=True)
        ],
        np.float64,
    )

    def share(weights: np.ndarray) -> np.ndarray:
        right, words = (weights @ counts).T
        return np.divide(right, words, out=np.full_like(right, np.nan), where=words > 0)

    right, words = counts.sum(0)
    return measure("accuracy", right / words, bootstrap(share, len(counts)))


def _check(truth: Tags, told: Tags) -> None:
    require_equal(len(truth), len(told))
    for a, b in zip(truth, told, strict=True):
        require_equal(len(a), len(b))
    require_examples(sum(map(len, truth)))
