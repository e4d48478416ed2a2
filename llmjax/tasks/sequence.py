"""Sequence-to-sequence tasks: translation, summarization, answers."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.metrics.metric import Metrics
from llmjax.tasks.config import TaskConfig, not_positive
from llmjax.tasks.continuation import Continuation, continuation, encode_after
from llmjax.tasks.examples import NO_TARGET, Example
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.row_formats import TEXT_FORMATS, SourceTarget, summary, text_format_of
from llmjax.tasks.task import (
    Batch,
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


@dataclass(frozen=True)
class SequenceTask(TaskConfig):
    """Generate text from text: translation, summarization. A decoder continues a prompt."""

    source: str = "source"
    """Column of the input text. Rows without it may be prompt and completion, or Alpaca's."""
    target: str = "target"
    """Column of the target text."""
    prompt: str = "{}"
    """The prompt; {} stands for the source."""
    beams: int = 1
    """Beams of beam search in evaluation and prediction; 1: greedy."""
    max_new_tokens: int = 128
    """Maximum tokens generated."""
    measure: int | None = None
    """Validation rows that evaluations during training generate text for; none: all, 0: no rows."""
    bleu_tokenize: Literal["13a", "intl", "zh", "char"] = "13a"
    """sacrebleu's tokenizer for BLEU; zh or char for languages without spaces."""
    label_smoothing: float = 0.0
    """Probability mass of each target that is spread evenly over the vocabulary."""
    kind: Literal["sequence"] = "sequence"

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.source,)

    def shown(self, row: Row) -> list[Any]:
        return [self.texts_of(row).source]

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.target, *(form.columns[-1] for form in TEXT_FORMATS))

    @property
    def text_columns(self) -> tuple[str, ...]:
        others = (name for form in TEXT_FORMATS for name in (*form.columns, "input"))
        return tuple(dict.fromkeys((self.source, self.target, *others)))

    def texts_of(self, row: Row) -> SourceTarget:
        """Return the texts of a row; UserError if it lacks its source."""
        if (row_format := text_format_of(row, self.source)) is not None:
            return row_format.texts(row)
        target = text_at(row, self.target) if self.target in row.values else None
        return SourceTarget(text_at(row, self.source), target)

    def target_of(self, row: Row) -> str:
        """Return the target of a row; UserError if it lacks it."""
        target = self.texts_of(row).target
        return text_at(row, self.target) if target is None else target

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Note how the rows are read."""
        for row in rows:
            self.target_of(row)
        formats = [text_format_of(row, self.source) for row in rows]
        return TaskMetadata(reading=summary([form for form in formats if form is not None]))

    @property
    def eval_limit(self) -> int | None:
        return self.measure

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("bleu", "chrf", "exact_match")

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        from llmjax.metrics.texts import sentence_chrf

        truth = self.target_of(row)
        chrf = sentence_chrf(truth, prediction["text"])
        return (100 - chrf, truth, prediction["text"]) if chrf < 100 else None

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "SequenceToSequence":
        return SequenceToSequence(context, metadata, self)

    def problems(self) -> Iterator[str]:
        if not 0 <= self.label_smoothing < 1:
            yield f"label_smoothing: {self.label_smoothing} is not in [0, 1)"
        yield from not_positive(self, "beams", "max_new_tokens")
        if self.measure is not None and self.measure < 0:
            yield f"measure: {self.measure} is negative"
        if self.prompt.count("{}") != 1:
            yield f"prompt: {self.prompt!r} must have {{}} once, where the source goes"


@dataclass(frozen=True, eq=False)
class SequenceToSequence(Task):
    """Generates text from text. A decoder continues the source, with loss on the target only."""

    config: SequenceTask

    def __post_init__(self) -> None:
        require_decoder(self.name, self.context.model)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        examples, cut = [], 0
        prompts = [self._prompt(row) for row in rows]
        encoded = self.context.tokenizer.encode_batch(prompts)
        for number, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
            text = self._continuation(row, prompts[number], ids)
            cut += text.cut
            examples.append(Example((text.segment,), NO_TARGET, 1.0, number, text.prompt))
        if cut:
            length = self.context.length
            log.warning("%d of %d texts are cut to %d tokens", cut, len(rows), length)
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        smoothing = self.config.label_smoothing
        return token_loss(model, body(params), batch, dropout_key=key, label_smoothing=smoothing)

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        prompts: list[Any] = [example.details for example in data.examples]
        texts = data.generate(prompts, self.config.max_new_tokens, self.config.beams)
        return [{"text": text.strip()} for text in texts]

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.texts import translation

        references = [self.config.target_of(row) for row in rows]
        texts = [prediction["text"] for prediction in predictions]
        return translation(references, texts, self.config.bleu_tokenize)

    def _prompt(self, row: Row) -> str:
        return self.config.prompt.replace("{}", self.config.texts_of(row).source)

    def _continuation(self, row: Row, prompt: str, ids: list[int]) -> Continuation:
        target, tokenizer = self.config.texts_of(row).target, self.context.tokenizer
        if target is None:
            return continuation(self.context, ids, None)
        if self.context.model.is_encoder_decoder:
            return continuation(self.context, ids, tokenizer.encode(target))
        return continuation(self.context, ids, encode_after(tokenizer, prompt, ids, target))
