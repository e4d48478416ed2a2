"""Fine-tuning on conversations; the loss covers the assistant's turns."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import numpy as np

from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.metrics.metric import Metrics
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.continuation import slot_totals, span_segment
from llmjax.tasks.conversations import PLAIN, ChatEncoder, EncodedChat, naming_row
from llmjax.tasks.examples import NO_TARGET, Example
from llmjax.tasks.messages import ASSISTANT, Message, context_at
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.row_formats import COLUMNS, format_of, summary
from llmjax.tasks.task import (
    Batch,
    Outputs,
    PredictionData,
    Task,
    TaskContext,
    body,
    require_decoder,
)

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)
NEW_TOKENS = 256
"""Maximum tokens of a generated answer, at most half a row."""


@dataclass(frozen=True)
class ChatTask(TaskConfig):
    """Fine-tune on conversations in the model's chat template; the loss covers the assistant's
    turns."""

    messages: str = "messages"
    """Column of messages: a list of {"role": ..., "content": ...}. Rows without it may be those of
    ShareGPT, of Alpaca, or prompt and completion."""
    tools: str | None = "tools"
    """Column of functions that the model may call, a list of JSON schemas; it may be missing."""
    documents: str | None = None
    """Column of documents that the template reads, a list; none: no documents."""
    kind: Literal["chat"] = "chat"

    uses_chat_template: ClassVar[bool] = True
    rows_are: ClassVar[str] = "conversations"

    @property
    def text_columns(self) -> tuple[str, ...]:
        return (self.messages, *(name for name in COLUMNS if name != self.messages))

    def messages_of(self, row: Row) -> list[Message]:
        """Return the conversation of a row, never empty; UserError if it holds none."""
        return format_of(row, self.messages).messages(row)

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Store the chat template for tokenizers without one, and how the rows are read."""
        formats = [format_of(row, self.messages) for row in rows]
        for row, row_format in zip(rows, formats, strict=True):
            roles = [message["role"] for message in row_format.messages(row)]
            if ASSISTANT not in roles:
                where = f"{row.place}, {row_format.answers}"
                raise UserError(where, "the assistant says nothing", "remove the row")
        return TaskMetadata(chat_template=PLAIN, reading=summary(formats))

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("loss", "perplexity", "accuracy")

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "Chat":
        return Chat(context, metadata, self)


@dataclass(frozen=True, eq=False)
class Chat(Task):
    """Conversations in the model's chat template."""

    config: ChatTask

    def __post_init__(self) -> None:
        require_decoder(self.name, self.context.model, alone=True)

    @property
    def template(self) -> str:
        """The chat template."""
        return self.context.tokenizer.chat_template or self.metadata.chat_template or PLAIN

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """One example per conversation, or several where `ChatEncoder.encode` splits it."""
        examples, cut, length = list[Example](), 0, self.context.length
        with ChatEncoder(self.context.tokenizer, self.template) as encoder:
            for number, row in enumerate(rows):
                messages = self.config.messages_of(row)
                context = context_at(row, self.config.tools, self.config.documents)
                is_open = messages[-1]["role"] != ASSISTANT
                with naming_row(row):
                    prompt = encoder.prompt(messages, context) if is_open else None
                    chats = encoder.encode(messages, context) or [EncodedChat(prompt or [], [])]
                for chat in chats:
                    fitted = chat.fitted(length)
                    cut += fitted is not chat
                    segment = span_segment(fitted.tokens, fitted.spans)
                    examples.append(Example((segment,), NO_TARGET, 1.0, number, prompt))
        if cut:
            log.warning("%d of %d conversations are cut to %d tokens", cut, len(rows), length)
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        return token_loss(model, body(params), batch, dropout_key=key)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        nll, correct, tokens = slot_totals(model, params, batch)
        return Outputs(slots={"nats": nll, "correct": correct, "tokens": tokens})

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        """Totals over the assistant's tokens; a generated answer where the assistant is next."""
        predictions: list[dict[str, Any]] = [{} for _ in data.rows]
        for example, output in zip(data.examples, data.outputs, strict=True):
            prediction = predictions[example.row]
            for name, value in output.items() if output["tokens"] else ():
                prediction[name] = prediction.get(name, 0.0) + float(value)
        prompts: dict[int, Any] = {
            example.row: example.details for example in data.examples if example.details is not None
        }
        most = min(NEW_TOKENS, self.context.length // 2)
        fitted = [prompt[most - self.context.length :] for prompt in prompts.values()]
        texts = data.generate(fitted, most, 1) if fitted else []
        for row, text in zip(prompts, texts, strict=True):
            predictions[row]["text"] = text.strip()
        return predictions

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.texts import language

        nll, tokens, correct = (
            np.array([prediction.get(name, 0.0) for prediction in predictions])
            for name in ("nats", "tokens", "correct")
        )
        return language(nll, tokens, correct)
