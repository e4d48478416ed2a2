"""The part of a context that answers a question."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import AnswerTask
from llmjax.tasks.example import Example, Segment
from llmjax.tasks.heads import Head
from llmjax.tasks.of_tokens import OfTokens
from llmjax.tasks.spans import (
    Candidate,
    Span,
    Window,
    candidates,
    known_answers,
    none_score,
    tokens_of,
    windows,
)
from llmjax.tasks.states import inside_slots
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Write

log = logging.getLogger(__name__)

ANSWERED, UNANSWERED = "answered", "unanswered"
NEVER = -1e30  # a logit whose exponential is 0, and whose gradient is finite


@dataclass(frozen=True, eq=False)
class Answers(OfTokens):
    """Tells an answer's first and last token (SQuAD, arXiv:1606.05250; the head of
    arXiv:1810.04805).

    A context that is too long for a row is read in windows that overlap; a window without the
    answer points at its first token. Where some questions to learn from have no answer, none is
    given where that scores higher than every answer, by more than `no_answer_threshold`.
    """

    config: AnswerTask
    outputs_per_target = 2

    @staticmethod
    def find(config: AnswerTask, rows: Sequence[Row]) -> Facts:
        """How many questions have an answer in their context, and how many have none.

        Raises:
          UserError: a row whose answers cannot be read.
        """
        have = [bool(known_answers(row, config.answers, _context(row, config))) for row in rows]
        return Facts(labels=(ANSWERED, UNANSWERED), counts=(sum(have), len(have) - sum(have)))

    @property
    def head(self) -> Head:
        return self.token_head(self.config, 2)

    @property
    def may_be_silent(self) -> bool:
        """Whether some questions to learn from have no answer."""
        return self.facts.counts[1] > 0

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        config, tokenizer, length = self.config, self.setting.tokenizer, self.setting.length
        questions = tokenizer.encode_batch([text_at(row, config.question) for row in rows])
        most = max(1, (length - len(tokenizer.wrap([], [])[0])) // 2)
        if cut := sum(len(question) > most for question in questions):
            log.warning("%d of %d questions are cut to %d tokens", cut, len(rows), most)
        encoded: dict[str, Any] = {}  # neighbouring rows often share their context
        found = []
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            context = _context(row, config)
            if context not in encoded:
                encoded = {context: tokenizer.encode_offsets(context)}
            ids, places = encoded[context]
            weight, answer = 0.0, None
            if config.answers in row.values:
                weight, known = 1.0, known_answers(row, config.answers, context)
                answer = tokens_of(known[0], places) if known else None
            for window in windows(tokenizer, question[:most], ids, places, length, config.stride):
                target = np.array(window.target(answer), np.float32)
                segment = Segment(window.tokens, window.types)
                found.append(Example((segment,), target, weight, number, window))
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        """The mean of both ends' cross-entropies over the tokens of a window."""
        logits = self.logits(self.config, self.head, model, params, batch, key)
        inside = inside_slots(batch)
        first = jnp.argmax(inside, axis=-1)
        targets = batch["slot_targets"].astype(jnp.int32) + first[..., None]
        ends = jnp.moveaxis(logits, -1, 1)[:, None]
        own = jnp.where(inside[:, :, None], ends, NEVER)
        halves = jnp.broadcast_to(0.5 * batch["slot_weights"][..., None], targets.shape)
        return softmax_cross_entropy(own, targets, halves)

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        logits = self.logits(self.config, self.head, model, params, batch, None)
        return Outputs(tokens={"logits": logits})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        config = self.config
        best: list[list[Candidate]] = [[] for _ in rows]
        silent = np.full(len(rows), np.inf)
        for example, one in zip(examples, found, strict=True):
            window, logits = example.place, one["logits"]
            assert isinstance(window, Window)
            row = example.row
            best[row] += candidates(window, logits, config.candidates, config.max_answer_tokens)
            silent[row] = min(silent[row], none_score(logits))
        return [
            self._told(_context(row, config), ranked, float(none))
            for row, ranked, none in zip(rows, best, silent, strict=True)
        ]

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.texts import extractive_answers as answers

        truth = []
        for row in rows:
            context = _context(row, self.config)
            known = known_answers(row, self.config.answers, context)
            truth.append([context[first:end] for first, end in known])
        told = [one["answer"] for one in predictions]
        if not self.may_be_silent:  # then no threshold changes anything
            return answers(truth, told)
        spans = [one["best"] for one in predictions]
        return answers(truth, told, spans, [one["none_score"] for one in predictions])

    def _told(self, context: str, found: Sequence[Candidate], none: float) -> dict[str, Any]:
        """The prediction of a row, from the candidates of all its windows.

        "none_score" is by how much no answer scores above the best one: where it is above the
        threshold, the answer is dropped, where any may be.
        """
        ranked = _distinct(found, context)[: self.config.candidates]
        score = none - ranked[0].score if ranked else 0.0
        silent = not ranked or (self.may_be_silent and score > self.config.no_answer_threshold)
        if silent or self.may_be_silent:
            ranked = sorted([*ranked, Candidate(none, None)], reverse=True, key=lambda c: c.score)
        shares = _softmax([one.score for one in ranked])
        listed = []
        for candidate, share in zip(ranked, shares, strict=True):
            first, end = candidate.span or (None, 0)
            text = context[first:end]
            listed.append({"answer": text, "start": first, "probability": share})
        chosen = next(one for one in listed if (one["start"] is None) == silent)
        spoken = next((one["answer"] for one in listed if one["start"] is not None), "")
        return {
            **chosen,
            "best": spoken,
            "none_score": score,
            "candidates": listed,
        }


def _context(row: Row, config: AnswerTask) -> str:
    return text_at(row, config.context)


def _distinct(found: Sequence[Candidate], context: str) -> list[Candidate]:
    """Candidates by falling score, each part of the context once: windows share tokens, and spaces
    around an answer are no part of it."""
    best: dict[Span, float] = {}
    for score, span in sorted(found, reverse=True, key=lambda one: one.score):
        text = context[span[0] : span[1]] if span else ""
        if span and text.strip():
            first = span[0] + len(text) - len(text.lstrip())
            best.setdefault((first, first + len(text.strip())), score)
    return [Candidate(score, span) for span, score in best.items()]


def _softmax(scores: Sequence[float]) -> list[float]:
    exp = np.exp(np.array(scores) - max(scores))
    shares: list[float] = (exp / exp.sum()).tolist()
    return shares
