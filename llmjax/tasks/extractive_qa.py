"""Extractive question answering."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.labels import NEVER, softmax_cross_entropy
from llmjax.losses.loss import Loss, with_aux
from llmjax.metrics.metric import Metrics
from llmjax.tasks.answer_spans import (
    Candidate,
    ContextWindow,
    Span,
    answer_tokens,
    candidates,
    none_score,
    true_answers,
    windows,
)
from llmjax.tasks.config import TaskConfig, not_positive
from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import Batch, Outputs, PredictionData, TaskContext
from llmjax.tasks.token_tasks import TokenTask, slot_mask

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)

ANSWERED, UNANSWERED = "answered", "unanswered"


@dataclass(frozen=True)
class ExtractiveQATask(TaskConfig):
    """Find the answer to a question in a text (SQuAD, arXiv:1606.05250, 1806.03822)."""

    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that contains the answer."""
    answers: str = "answers"
    """Column of the answers: {"text": [...], "answer_start": [...]}, in characters; empty lists
    where the context has none."""
    stride: int = 64
    """Tokens shared by neighbouring windows of a long context."""
    max_answer_tokens: int = 30
    """Longest answer."""
    candidates: int = 20
    """Best start and end positions that are combined; also the answers listed per prediction."""
    no_answer_threshold: float = 0.0
    """Where some questions are unanswerable: predict no answer if none_score exceeds this; evaluate
    prints the best threshold."""
    kind: Literal["extractive_qa"] = "extractive_qa"

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.question, self.context)

    @property
    def shown_columns(self) -> tuple[str, ...]:
        return (self.question,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.answers,)

    def answers_of(self, row: Row) -> list[Span]:
        """Return the true answers of a row as character ranges of its context."""
        return true_answers(row, self.answers, text_at(row, self.context))

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Count the questions with and without an answer."""
        have = [bool(self.answers_of(row)) for row in rows]
        counts = (sum(have), len(have) - sum(have))
        return TaskMetadata(labels=(ANSWERED, UNANSWERED), counts=counts)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        if not all(metadata.counts):
            return ("f1", "exact_match")
        mixed = ("answered_f1", "answered_exact_match", "unanswered_accuracy")
        return ("f1", "exact_match", *mixed)

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        from llmjax.metrics.texts import word_f1

        context, predicted = text_at(row, self.context), prediction["answer"]
        truth = [context[first:end] for first, end in self.answers_of(row)]
        f1 = max(word_f1(text, predicted) for text in truth or [""])
        if f1 == 1:
            return None
        return 1 - f1, " | ".join(dict.fromkeys(truth)) or "(none)", predicted or "(none)"

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "ExtractiveQA":
        return ExtractiveQA(context, metadata, self)

    def problems(self) -> Iterator[str]:
        yield from not_positive(self, "stride", "max_answer_tokens", "candidates")
        if not abs(self.no_answer_threshold) < 1e9:
            yield f"no_answer_threshold: {self.no_answer_threshold} is not a finite number"


@dataclass(frozen=True, eq=False)
class ExtractiveQA(TokenTask):
    """Predicts an answer's first and last token (SQuAD, arXiv:1606.05250; the head of
    arXiv:1810.04805).

    A context too long for a row is read in overlapping windows; a window without the answer has its
    first token as the target. If some training questions are unanswerable, a question gets no
    answer where that outscores every answer by more than `no_answer_threshold`.
    """

    config: ExtractiveQATask

    @property
    def num_outputs(self) -> int:
        return 2

    @property
    def may_have_no_answer(self) -> bool:
        """Whether some training questions are unanswerable."""
        return self.metadata.counts[1] > 0

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        config, tokenizer, length = self.config, self.context.tokenizer, self.context.length
        questions = tokenizer.encode_batch([text_at(row, config.question) for row in rows])
        most = max(1, (length - len(tokenizer.wrap([], [])[0])) // 2)
        if cut := sum(len(question) > most for question in questions):
            log.warning("%d of %d questions are cut to %d tokens", cut, len(rows), most)
        encoded: dict[str, Any] = {}  # consecutive rows often share a context
        examples = []
        for number, (row, question) in enumerate(zip(rows, questions, strict=True)):
            context = text_at(row, config.context)
            if context not in encoded:
                encoded = {context: tokenizer.encode_offsets(context)}
            ids, offsets = encoded[context]
            weight, answer = 0.0, None
            if config.answers in row.values:
                weight, answers = 1.0, config.answers_of(row)
                answer = answer_tokens(answers[0], offsets) if answers else None
            for window in windows(tokenizer, question[:most], ids, offsets, length, config.stride):
                target = np.array(window.target(answer), np.float32)
                segment = Segment(window.tokens, window.types)
                examples.append(Example((segment,), target, weight, number, window))
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        """The mean of the start and end cross-entropies over a window's tokens."""
        logits, aux = self.logits(model, params, batch, key)
        inside = slot_mask(batch)
        first = jnp.argmax(inside, axis=-1)
        targets = batch["slot_targets"].astype(jnp.int32) + first[..., None]
        ends = jnp.moveaxis(logits, -1, 1)[:, None]
        in_window = jnp.where(inside[:, :, None], ends, NEVER)
        halves = jnp.broadcast_to(0.5 * batch["slot_weights"][..., None], targets.shape)
        return with_aux(softmax_cross_entropy(in_window, targets, halves), aux)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        return Outputs(tokens={"logits": self.logits(model, params, batch, None)[0]})

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        config = self.config
        best: list[list[Candidate]] = [[] for _ in data.rows]
        no_answer = np.full(len(data.rows), np.inf)
        for example, output in zip(data.examples, data.outputs, strict=True):
            window, logits, row = example.details, output["logits"], example.row
            assert isinstance(window, ContextWindow)
            best[row] += candidates(window, logits, config.candidates, config.max_answer_tokens)
            no_answer[row] = min(no_answer[row], none_score(logits))
        return [
            self._prediction(text_at(row, config.context), ranked, float(score))
            for row, ranked, score in zip(data.rows, best, no_answer, strict=True)
        ]

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.texts import extractive_answers

        truth = []
        for row in rows:
            context = text_at(row, self.config.context)
            truth.append([context[first:end] for first, end in self.config.answers_of(row)])
        answers = [prediction["answer"] for prediction in predictions]
        if not self.may_have_no_answer:  # a threshold changes nothing
            return extractive_answers(truth, answers)
        spans = [prediction["best"] for prediction in predictions]
        scores = [prediction["none_score"] for prediction in predictions]
        return extractive_answers(truth, answers, spans, scores)

    def _prediction(
        self, context: str, answers: Sequence[Candidate], no_answer: float
    ) -> dict[str, Any]:
        """Predict from the candidates of all windows of a row.

        "none_score" is the score of no answer minus that of the best answer. If it exceeds the
        threshold, and questions may be unanswerable, the prediction is no answer.
        """
        ranked = _distinct(answers, context)[: self.config.candidates]
        score = no_answer - ranked[0].score if ranked else 0.0
        is_unanswered = not ranked or (
            self.may_have_no_answer and score > self.config.no_answer_threshold
        )
        if is_unanswered or self.may_have_no_answer:
            ranked = sorted(
                [*ranked, Candidate(no_answer, None)], reverse=True, key=lambda c: c.score
            )
        probabilities = _softmax([candidate.score for candidate in ranked])
        listed = []
        for candidate, probability in zip(ranked, probabilities, strict=True):
            first, end = candidate.span or (None, 0)
            listed.append(
                {"answer": context[first:end], "start": first, "probability": probability}
            )
        chosen = next(answer for answer in listed if (answer["start"] is None) == is_unanswered)
        spans = (answer["answer"] for answer in listed if answer["start"] is not None)
        return {**chosen, "best": next(spans, ""), "none_score": score, "candidates": listed}


def _distinct(candidates: Sequence[Candidate], context: str) -> list[Candidate]:
    """Sort candidates by descending score; deduplicate spans across windows, surrounding spaces
    stripped."""
    best: dict[Span, float] = {}
    for score, span in sorted(candidates, reverse=True, key=lambda candidate: candidate.score):
        text = context[span[0] : span[1]] if span else ""
        if span and text.strip():
            first = span[0] + len(text) - len(text.lstrip())
            best.setdefault((first, first + len(text.strip())), score)
    return [Candidate(score, span) for span, score in best.items()]


def _softmax(scores: Sequence[float]) -> list[float]:
    exp = np.exp(np.array(scores) - max(scores))
    probabilities: list[float] = (exp / exp.sum()).tolist()
    return probabilities
