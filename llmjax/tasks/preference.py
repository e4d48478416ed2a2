"""Preference optimization against the initial model (DPO, arXiv:2305.18290)."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tables.table import Row, text_at
from llmjax.errors import UserError
from llmjax.losses.loss import Loss, likelihood_loss, with_aux
from llmjax.metrics.metric import Metrics
from llmjax.tasks.config import TaskConfig, not_positive
from llmjax.tasks.continuation import continuation, encode_after, segment_nll, span_segment
from llmjax.tasks.conversations import PLAIN, ChatEncoder, naming_row
from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.messages import ASSISTANT, Message, checked, context_at
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import (
    Batch,
    Outputs,
    PredictionData,
    Task,
    TaskContext,
    require_decoder,
)

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)
NO_REFERENCE = np.zeros(2, np.float32)


@dataclass(frozen=True)
class PreferenceTask(TaskConfig):
    """Prefer the better of two answers, relative to the initial model (DPO, arXiv:2305.18290)."""

    prompt: str = "prompt"
    """Column of the prompt: text, or a list of messages."""
    chosen: str = "chosen"
    """Column of the better answer: text, or a list of messages."""
    rejected: str = "rejected"
    """Column of the worse answer: text, or a list of messages."""
    tools: str | None = "tools"
    """Column of functions that the model may call, a list of JSON schemas; it may be missing."""
    documents: str | None = None
    """Column of documents that the template reads, a list; none: no documents."""
    beta: float = 0.1
    """Strength of the constraint to the initial model."""
    kind: Literal["preference"] = "preference"

    uses_initial_model: ClassVar[bool] = True
    rows_are: ClassVar[str] = "prompts with two answers each"

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.prompt, self.chosen, self.rejected)

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Store the chat template for tokenizers without one, and whether rows use it."""
        columns = (self.prompt, self.chosen, self.rejected)
        are_messages = [_has_messages(row, columns) for row in rows]
        reading = "" if all(are_messages) else "read as plain text, without the chat template"
        if any(are_messages):
            reading = (
                f"read as messages in the chat template: {sum(are_messages):,} of {len(rows):,}"
            )
        return TaskMetadata(chat_template=PLAIN, reading=reading)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("accuracy", "loss", "margin")

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "Preference":
        return Preference(context, metadata, self)

    def problems(self) -> Iterator[str]:
        yield from not_positive(self, "beta")


@dataclass(frozen=True, eq=False)
class Preference(Task):
    """Prefers the better of two answers.

    An example is both answers, each after its prompt; its target is the log-likelihood of each
    under the initial model. These are in the metadata, keyed by the digest of the example's tokens
    (see `reference`); without them the answers are compared by likelihood alone. An example's
    `details` is whether it has them.
    """

    config: PreferenceTask

    def __post_init__(self) -> None:
        require_decoder(self.name, self.context.model, alone=True)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Encode pairs; pairs of equal answers have weight 0."""
        examples, cut, equal = [], 0, list[str]()
        for number, (segments, shortened) in enumerate(self._pairs(rows)):
            cut += shortened
            if segments[0] == segments[1]:
                equal.append(rows[number].place)
            weight = float(segments[0] != segments[1])
            examples.append(Example(segments, NO_REFERENCE, weight, number))
        length = self.context.length // 2
        if cut:
            log.warning("%d of %d pairs have an answer cut to %d tokens", cut, len(rows), length)
        if equal:
            message = "%d of %d pairs have answers that are equal within %d tokens (the first: %s)"
            log.warning(message, len(equal), len(rows), length, equal[0])
        return self.with_references(examples)

    def with_references(self, examples: Sequence[Example]) -> list[Example]:
        references = {key: values for key, *values in self.metadata.references}
        stored = [references.get(digest(example.segments)) for example in examples]
        return [
            example._replace(
                target=NO_REFERENCE if values is None else np.array(values, np.float32),
                details=values is not None,
            )
            for example, values in zip(examples, stored, strict=True)
        ]

    def lacks_reference(self, example: Example) -> bool:
        return not example.details

    def reference(
        self,
        model: "Model",
        params: "Params",
        examples: Sequence[Example],
        *,
        batch_size: int,
        mesh: Mesh | None,
    ) -> TaskMetadata:
        from llmjax.tasks.predict import compute_outputs

        outputs = compute_outputs(self, model, params, examples, batch_size, mesh)
        references = {reference[0]: reference for reference in self.metadata.references}
        for example, output in zip(examples, outputs, strict=True):
            key, (chosen, rejected) = digest(example.segments), output["log_likelihoods"].tolist()
            references[key] = (key, chosen, rejected)
        return replace(self.metadata, references=tuple(references.values()))

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        """-log sigmoid(beta x (gain of the chosen answer - gain of the rejected one))."""
        likelihoods, aux = self._log_likelihoods(model, params, batch, key)
        gains = likelihoods - batch["slot_targets"]
        margins = self.config.beta * (gains[..., 0] - gains[..., 1])
        weights = batch["slot_weights"]
        live = weights > 0
        nll = jnp.where(live, weights * jax.nn.softplus(-margins), 0.0).sum()
        correct = jnp.where(live, weights * 0.5 * (1 + jnp.sign(margins)), 0.0).sum()
        return with_aux(likelihood_loss(nll, nll, weights.sum(), correct), aux)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        return Outputs({"log_likelihoods": self._log_likelihoods(model, params, batch, None)[0]})

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        """Each answer's log-likelihood, and the reward margin."""
        predictions = []
        for example, output in zip(data.examples, data.outputs, strict=True):
            gains = output["log_likelihoods"] - example.target
            chosen, rejected = map(float, output["log_likelihoods"])
            predictions.append(
                {
                    "chosen": chosen,
                    "rejected": rejected,
                    "margin": self.config.beta * float(gains[0] - gains[1]),
                    "against_reference": bool(example.details),
                }
            )
        return predictions

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.numbers import preference

        return preference(np.array([prediction["margin"] for prediction in predictions]))

    def _log_likelihoods(
        self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None
    ) -> "tuple[jax.Array, Aux]":
        """[R, E, 2] float32: of the chosen and the rejected answer; and the sums that layers
        report."""
        nll, aux = segment_nll(model, params, batch, key, segments=2)
        return -nll.reshape(nll.shape[0], -1, 2), aux

    def _pairs(self, rows: Sequence[Row]) -> Iterator[tuple[tuple[Segment, Segment], bool]]:
        """Yield both answers of each row, and whether one was truncated."""
        template = self.context.tokenizer.chat_template or self.metadata.chat_template or PLAIN
        with ChatEncoder(self.context.tokenizer, template) as encoder:
            for row in rows:
                first, first_cut = self._segment(row, self.config.chosen, encoder)
                second, second_cut = self._segment(row, self.config.rejected, encoder)
                yield (first, second), first_cut or second_cut

    def _segment(self, row: Row, column: str, encoder: ChatEncoder) -> tuple[Segment, bool]:
        half = self.context._replace(length=max(1, self.context.length // 2))
        messages = self._messages(row, column)
        if messages is not None:
            context = context_at(row, self.config.tools, self.config.documents)
            with naming_row(row):
                (chat,) = encoder.encode(messages, context, last=True)
            fitted = chat.fitted(half.length)
            return span_segment(fitted.tokens, fitted.spans), fitted is not chat
        prompt, tokenizer = text_at(row, self.config.prompt), half.tokenizer
        ids = tokenizer.encode(prompt)
        text = continuation(half, ids, encode_after(tokenizer, prompt, ids, text_at(row, column)))
        return text.segment, text.cut

    def _messages(self, row: Row, column: str) -> list[Message] | None:
        """Return the conversation that ends with an answer; None if prompt and answer are text.

        An answer may be text, messages, or the full conversation with its prompt.
        """
        if not _has_messages(row, (self.config.prompt, column)):
            return None
        prompt, answer = row.values.get(self.config.prompt), row.values.get(column)
        answer = [answer] if isinstance(answer, dict) else answer
        if isinstance(answer, list):
            messages = checked(row, column, answer)
        else:
            messages = [{"role": ASSISTANT, "content": text_at(row, column)}]
        if messages[-1]["role"] != ASSISTANT:
            where = f"{row.place}, column {column!r}"
            raise UserError(where, "does not end with an assistant message", "fix the row")
        if messages[0]["role"] != ASSISTANT:
            return messages
        if isinstance(prompt, list):
            return [*checked(row, self.config.prompt, prompt), *messages]
        return [{"role": "user", "content": text_at(row, self.config.prompt)}, *messages]


def _has_messages(row: Row, columns: Sequence[str]) -> bool:
    """Whether any of the columns holds messages: a list, or a single one."""
    return any(isinstance(row.values.get(column), list | dict) for column in columns)


def digest(segments: Sequence[Segment]) -> str:
    """Hash an example's tokens, targets and weights."""
    state = hashlib.blake2b(digest_size=12)
    for segment in segments:
        for part in (segment.tokens, segment.targets, segment.weights):
            state.update(np.asarray(part, np.float32).tobytes() + b"|")
    return state.hexdigest()
