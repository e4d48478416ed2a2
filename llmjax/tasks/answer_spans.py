"""Overlapping windows over question and context, and the answer spans in them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

Span = tuple[int, int]
"""Character range [first, end) of a context."""


class ContextWindow(NamedTuple):
    """A question followed by a slice of its context, as model input.

    Attributes:
      tokens, types: the whole input, special tokens included.
      start: index in `tokens` where the context slice starts.
      first: index in the context of the slice's first token.
      offsets: int [n, 2], character range in the context of each token of the slice.
    """

    tokens: list[int]
    types: list[int]
    start: int
    first: int
    offsets: np.ndarray

    def target(self, answer: tuple[int, int] | None) -> tuple[int, int]:
        """Map an answer's (first, last) context tokens to window indices; (0, 0) unless the window
        contains the whole answer."""
        if answer is None or answer[0] < self.first:
            return 0, 0
        if answer[1] >= self.first + len(self.offsets):
            return 0, 0
        shift = self.start - self.first
        return answer[0] + shift, answer[1] + shift


def answer_tokens(answer: Span, offsets: Sequence[Span]) -> tuple[int, int] | None:
    """Return the first and last token that overlap the answer, or None if no token does."""
    within = [
        number
        for number, (first, end) in enumerate(offsets)
        if first < end and first < answer[1] and end > answer[0]
    ]
    return (within[0], within[-1]) if within else None


def windows(
    tokenizer: Tokenizer,
    question: Sequence[int],
    context: Sequence[int],
    offsets: Sequence[Span],
    length: int,
    stride: int,
) -> Iterator[ContextWindow]:
    """Cut a context into overlapping windows that each fit in a row after the question.

    Args:
      tokenizer: adds the special tokens.
      question: token ids; short enough to leave space for some of the context.
      context: token ids.
      offsets: character range of each context token.
      length: tokens per row.
      stride: tokens shared by neighbouring windows, at most half a window.
    """
    space = max(1, length - len(tokenizer.wrap(question, [])[0]))
    step = max(1, space - min(stride, space // 2))
    start = tokenizer.wrap(question, [-1])[0].index(-1)
    spans = np.array(offsets, np.int32).reshape(-1, 2)
    first = 0
    while True:
        tokens, types = tokenizer.wrap(question, context[first : first + space])
        yield ContextWindow(tokens, types, start, first, spans[first : first + space])
        if first + space >= len(context):
            return
        first += step


def true_answers(row: Row, column: str, context: str) -> list[Span]:
    """Read the true answers of a row; empty where the question has none.

    The column holds {"text": [...], "answer_start": [...]}, or a list of objects with these keys.

    Raises:
      UserError: the column is missing or malformed, or an answer is not at the stated position in
        the context.
    """
    place = f"{row.place}, column {column!r}"
    if column not in row.values:
        reason = f"has no column {column!r}"
        raise UserError(row.place, reason, f"its columns are {', '.join(row.values)}")
    answers = []
    for text, first in _pairs(row.values[column], place):
        if not isinstance(text, str) or isinstance(first, bool) or not isinstance(first, int):
            reason = f"{text!r} at {first!r} is not a text with the index of its first character"
            raise UserError(place, reason, "fix it")
        if context[max(first, 0) : first + len(text)] != text:
            actual = context.find(text)
            fix = f"it is at {actual}" if actual >= 0 else "the context does not contain it"
            reason = f"{text[:40]!r} is not at character {first} of the context"
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
        raise UserError(place, f"is not a list of answers: {error}", fix) from error


class Candidate(NamedTuple):
    """An answer and its score, the sum of two logits; the span is None for no answer."""

    score: float
    span: Span | None


def candidates(
    window: ContextWindow, logits: np.ndarray, count: int, longest: int
) -> list[Candidate]:
    """Return the `count` best answers in a window, best first.

    Args:
      window: the window.
      logits: float [tokens, 2], of start and end positions.
      count: starts and ends that are combined, and answers returned.
      longest: maximum tokens of an answer.
    """
    part = logits[window.start : window.start + len(window.offsets)].astype(np.float64)
    part[window.offsets[:, 0] == window.offsets[:, 1]] = -np.inf  # no characters
    firsts, lasts = (np.argsort(-part[:, k], kind="stable")[:count] for k in (0, 1))
    scores = part[firsts, 0][:, None] + part[lasts, 1][None, :]
    sizes = lasts[None, :] - firsts[:, None] + 1
    allowed = (sizes >= 1) & (sizes <= longest) & np.isfinite(scores)
    best = np.argsort(-np.where(allowed, scores, -np.inf), axis=None, kind="stable")[:count]
    starts, ends = np.unravel_index(best, scores.shape)
    return [
        Candidate(
            float(scores[i, j]),
            (int(window.offsets[firsts[i], 0]), int(window.offsets[lasts[j], 1])),
        )
        for i, j in zip(starts, ends, strict=True)
        if allowed[i, j]
    ]


def none_score(logits: np.ndarray) -> float:
    """Score the absence of an answer in a window: the sum of its first token's logits."""
    return float(logits[0, 0]) + float(logits[0, 1])
