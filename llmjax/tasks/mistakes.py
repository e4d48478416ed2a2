"""The predictions that miss the truth the most: what a person wants to look at first."""

from collections.abc import Iterator, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

from llmjax.data.tables.table import Row, list_at, number_at, text_at
from llmjax.tasks.config import (
    AnswerTask,
    ClassificationTask,
    MultiLabelTask,
    RegressionTask,
    SequenceTask,
    TaskConfig,
    TokenTask,
)
from llmjax.tasks.labels import label_at
from llmjax.tasks.spans import known_answers

SHOWN = 300
"""Characters of a text."""


class Mistake(NamedTuple):
    """A row that was told wrongly.

    Attributes:
      cost: how bad that is; larger is worse.
      place: where the row stands.
      text: what was given.
      truth: what is right.
      told: what was told.
    """

    cost: float
    place: str
    text: str
    truth: str
    told: str


def mistakes(
    config: TaskConfig, rows: Sequence[Row], predictions: Sequence[dict[str, Any]], most: int = 20
) -> list[Mistake]:
    """The worst ones first; none for tasks whose answers are not right or wrong one by one."""
    found = [
        Mistake(cost, row.place, _text(config, row), truth, told)
        for row, one in zip(rows, predictions, strict=True)
        for cost, truth, told in _missed(config, row, one)
    ]
    return sorted(found, key=lambda mistake: -mistake.cost)[:most]


Missed = Iterator[tuple[float, str, str]]


@singledispatch
def _missed(config: Any, row: Row, told: dict[str, Any]) -> Missed:
    yield from ()


@_missed.register
def _(config: ClassificationTask, row: Row, told: dict[str, Any]) -> Missed:
    truth = label_at(row, config.label)
    if truth != told["label"]:
        yield told["probability"], truth, f"{told['label']} ({told['probability']:.0%})"


@_missed.register
def _(config: MultiLabelTask, row: Row, told: dict[str, Any]) -> Missed:
    truth = {str(label) for label in list_at(row, config.labels, config.separator)}
    if wrong := truth ^ set(told["labels"]):
        yield float(len(wrong)), ", ".join(sorted(truth)), ", ".join(told["labels"])


@_missed.register
def _(config: RegressionTask, row: Row, told: dict[str, Any]) -> Missed:
    truth = number_at(row, config.target)
    yield abs(truth - told["value"]), f"{truth:g}", f"{told['value']:.3g}"


@_missed.register
def _(config: TokenTask, row: Row, told: dict[str, Any]) -> Missed:
    words = list(map(str, list_at(row, config.tokens)))
    truth = list(map(str, list_at(row, config.tags)))
    wrong = [place for place, tag in enumerate(truth) if tag != told["tags"][place]]
    if wrong:
        shares = [f"{words[place]}/{truth[place]}" for place in wrong]
        yield (
            len(wrong) / len(words),
            " ".join(shares),
            " ".join(f"{words[place]}/{told['tags'][place]}" for place in wrong),
        )


@_missed.register
def _(config: AnswerTask, row: Row, told: dict[str, Any]) -> Missed:
    from llmjax.metrics.texts import word_f1

    context = text_at(row, config.context)
    truth = [context[a:b] for a, b in known_answers(row, config.answers, context)]
    share = max(word_f1(text, told["answer"]) for text in truth or [""])
    if share < 1:
        yield 1 - share, " | ".join(dict.fromkeys(truth)) or "(none)", told["answer"] or "(none)"


@_missed.register
def _(config: SequenceTask, row: Row, told: dict[str, Any]) -> Missed:
    from llmjax.metrics.texts import sentence_chrf

    truth = str(row.values[config.target])
    share = sentence_chrf(truth, told["text"])
    if share < 100:
        yield 100 - share, truth, told["text"]


GIVEN: tuple[str, ...] = ("question", "text", "pair", "source", "tokens")


def _text(config: TaskConfig, row: Row) -> str:
    """What a person reads of a row."""
    columns = [getattr(config, name) for name in GIVEN if getattr(config, name, None)]
    values = [row.values.get(column) for column in columns]
    texts = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values]
    joined = " ⏐ ".join(texts)
    return joined if len(joined) <= SHOWN else joined[: SHOWN - 1] + "…"
