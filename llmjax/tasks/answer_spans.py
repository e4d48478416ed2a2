"""Questions with their contexts in overlapping windows, and the answers that a window holds."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

Span = tuple[int, int]
"""Characters first ... end - 1 of a context."""


class ContextWindow(NamedTuple):
    """A part of a context, behind its question, as the model reads it.

    Attributes:
      tokens, types: of the question, the part, and what stands around them.
      start: where among the tokens the part begins.
      first: which token of the context it begins with.
      places: int [n, 2], the characters of the context that each token of the part stands for.
    """

    tokens: list[int]
    types: list[int]
    start: int
    first: int
    places: np.ndarray

    def target(self, answer: tuple[int, int] | None) -> tuple[int, int]:
        """Where an answer's first and last token of the context are in the window; its very first
        token twice where it does not hold them all."""
        if answer is None or answer[0] < self.first:
            return 0, 0
        if answer[1] >= self.first + len(self.places):
            return 0, 0
        move = self.start - self.first
        return answer[0] + move, answer[1] + move


def answer_tokens(answer: Span, places: Sequence[Span]) -> tuple[int, int] | None:
    """The first and the last token that stand for a character of the answer; None: none does."""
    within = [
        number
        for number, (first, end) in enumerate(places)
        if first < end and first < answer[1] and end > answer[0]
    ]
    return (within[0], within[-1]) if within else None


def windows(
    tokenizer: Tokenizer,
    question: Sequence[int],
    context: Sequence[int],
    places: Sequence[Span],
    length: int,
    stride: int,
) -> Iterator[ContextWindow]:
    """Cuts a context into windows that overlap, so that each fits a row behind the question.

    Args:
      tokenizer: which knows what stands around them.
      question: its tokens; short enough to leave space for some of the context.
      context: its tokens.
      places: the characters that each of these stands for.
      length: tokens of a row.
      stride: tokens that neighbours share; half a window at most.
    """
    space = max(1, length - len(tokenizer.wrap(question, [])[0]))
    step = max(1, space - min(stride, space // 2))
    start = tokenizer.wrap(question, [-1])[0].index(-1)
    spans = np.array(places, np.int32).reshape(-1, 2)
    first = 0
    while True:
        tokens, types = tokenizer.wrap(question, context[first : first + space])
        yield ContextWindow(tokens, types, start, first, spans[first : first + space])
        if first + space >= len(context):
            return
        first += step


def true_answers(row: Row, column: str, context: str) -> list[Span]:
    """The true answers of a row, none where the context has none.

    They are {"text": [...], "answer_start": [...]}, or a list of objects with one of each.

    Raises:
      UserError: there is no such column, it is of another form, or an answer does not stand in the
        context where it says.
    """
    place = f"{row.place}, column {column!r}"
    if column not in row.values:
        reason = f"has no column {column!r}"
        raise UserError(row.place, reason, f"its columns are {', '.join(row.values)}")
    answers = []
    for text, first in _pairs(row.values[column], place):
        if not isinstance(text, str) or isinstance(first, bool) or not isinstance(first, int):
            reason = f"{text!r} at {first!r} is no text with its first character's number"
            raise UserError(place, reason, "fix it")
        if context[max(first, 0) : first + len(text)] != text:
            near = context.find(text)
            fix = f"it stands at {near}" if near >= 0 else "the context does not hold it"
            reason = f"{text[:40]!r} does not stand at character {first} of the context"
            raise UserError(place, reason, fix)
        if text.strip():
            answers.append((first, first + len(text)))
    return answers


def _pairs(value: Any, place: str) -> list[tuple[Any, Any]]:
    try:
        if isinstance(value, dict):
            return list(zip(value["text"], value["answer_start"], strict=True))
        if isinstance(value, list):
            return [(answer["text"], answer["answer_start"]) for answer in value]
        raise TypeError(f"it is {type(value).__name__}")
    except (KeyError, TypeError, ValueError) as error:
        fix = 'write {"text": [...], "answer_start": [...]}'
        raise UserError(place, f"holds no answers: {error}", fix) from error


class Candidate(NamedTuple):
    """An answer and its score, the sum of two logits; None is that there is no answer."""

    score: float
    span: Span | None


def candidates(
    window: ContextWindow, logits: np.ndarray, count: int, longest: int
) -> list[Candidate]:
    """The best answers in a window, at most `count`, the best first.

    Args:
      window: where to look.
      logits: float [tokens, 2], of beginnings and of ends.
      count: how many beginnings and how many ends are combined, and answers given.
      longest: most tokens of an answer.
    """
    part = logits[window.start : window.start + len(window.places)].astype(np.float64)
    part[window.places[:, 0] == window.places[:, 1]] = -np.inf  # stands for no character
    firsts, lasts = (np.argsort(-part[:, k], kind="stable")[:count] for k in (0, 1))
    scores = part[firsts, 0][:, None] + part[lasts, 1][None, :]
    sizes = lasts[None, :] - firsts[:, None] + 1
    allowed = (sizes >= 1) & (sizes <= longest) & np.isfinite(scores)
    best = np.argsort(-np.where(allowed, scores, -np.inf), axis=None, kind="stable")[:count]
    begins, ends = np.unravel_index(best, scores.shape)
    return [
        Candidate(
            float(scores[i, j]),
            (int(window.places[firsts[i], 0]), int(window.places[lasts[j], 1])),
        )
        for i, j in zip(begins, ends, strict=True)
        if allowed[i, j]
    ]


def none_score(logits: np.ndarray) -> float:
    """The score of there being no answer in a window: of its first token."""
    return float(logits[0, 0]) + float(logits[0, 1])
