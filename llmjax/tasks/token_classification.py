"""Token classification: named entities, parts of speech."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from llmjax.data.tables.table import Row, list_at
from llmjax.errors import UserError
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss, with_aux
from llmjax.metrics.metric import Metrics
from llmjax.metrics.tags import entities, has_entities, spans, tags
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.examples import NO_TARGET, Example, Segment
from llmjax.tasks.labels import as_label, label_metadata, label_number
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import Batch, Outputs, PredictionData, TaskContext
from llmjax.tasks.token_tasks import TokenTask

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenClassificationTask(TaskConfig):
    """Tag each word (named entities, parts of speech); predicted at the word's first token."""

    tokens: str = "tokens"
    """Column of the words: a list, or space-separated text."""
    tags: str = "tags"
    """Column of the tags, one per word. B-X and I-X tags are evaluated as entities."""
    kind: Literal["token_classification"] = "token_classification"

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.tokens,)

    @property
    def target_columns(self) -> tuple[str, ...]:
        return (self.tags,)

    def labels_of(self, row: Row) -> list[str]:
        return self.tags_of(row, len(list_at(row, self.tags)))

    def words_of(self, row: Row) -> list[str]:
        """Return the words of a row; UserError if it has none."""
        words, place = list_at(row, self.tokens), f"{row.place}, column {self.tokens!r}"
        if not words:
            raise UserError(place, "has no words", "fill it in or remove the row")
        if not all(isinstance(word, str | int | float) for word in words):
            raise UserError(place, "contains an item that is not a word", "give a list of texts")
        return [str(word) for word in words]

    def tags_of(self, row: Row, words: int) -> list[str]:
        """Return the tags of a row; UserError unless there is one per word."""
        values = list_at(row, self.tags)
        if len(values) != words:
            reason = f"has {len(values)} tags for {words} words"
            raise UserError(f"{row.place}, column {self.tags!r}", reason, "give each word one")
        return [as_label(row, self.tags, value) for value in values]

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """Collect the tags, sorted, and the number of words with each."""
        tags = (tag for row in rows for tag in self.tags_of(row, len(self.words_of(row))))
        return label_metadata(name_of(self), self.tags, tags)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        if has_entities([metadata.labels]):
            return ("f1", "precision", "recall", "accuracy")
        return ("accuracy", "f1_macro", "f1_micro", "matthews")

    def mistake(self, row: Row, prediction: dict[str, Any]) -> tuple[float, str, str] | None:
        words, predicted = self.words_of(row), prediction["tags"]
        truth = [str(tag) for tag in list_at(row, self.tags)]
        wrong = [n for n, tag in enumerate(truth) if tag != predicted[n]]
        if not wrong:
            return None
        expected, actual = (
            " ".join(f"{words[n]}/{tags[n]}" for n in wrong) for tags in (truth, predicted)
        )
        return len(wrong) / len(words), expected, actual

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "TokenClassification":
        return TokenClassification(context, metadata, self)


class Words(NamedTuple):
    """The words of an example.

    Attributes:
      first: index in the row of the first word.
      positions: int [words], position of each word's first token.
    """

    first: int
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenClassification(TokenTask):
    """Predicts each word's tag at its first token; its other tokens have no target.

    A sentence longer than a row is split between words.
    """

    config: TokenClassificationTask

    @property
    def num_outputs(self) -> int:
        return len(self.metadata.labels)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        words = [self.config.words_of(row) for row in rows]
        pieces = iter(self._pieces([word for sentence in words for word in sentence]))
        space = max(1, self.context.length - len(self.context.tokenizer.wrap([])[0]))
        examples: list[Example] = []
        for number, (row, sentence) in enumerate(zip(rows, words, strict=True)):
            targets = None
            if self.config.tags in row.values:
                names = self.config.tags_of(row, len(sentence))
                targets = [label_number(row, tag, self.metadata) for tag in names]
            cut = [next(pieces)[:space] for _ in sentence]
            examples += self._parts(number, cut, targets, space)
        if len(examples) > len(rows):
            split = len(examples) - len({example.row for example in examples})
            log.warning("sentences longer than %d tokens are split: %d more examples", space, split)
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        logits, aux = self.logits(model, params, batch, key)
        loss = softmax_cross_entropy(logits, batch["targets"], batch["weights"])
        return with_aux(loss, aux)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        logits, _ = self.logits(model, params, batch, None)
        return Outputs(tokens={"probabilities": jax.nn.softmax(logits, axis=-1)})

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        predictions: list[dict[str, Any]] = [
            {"words": self.config.words_of(row), "tags": [], "probabilities": []}
            for row in data.rows
        ]
        for example, output in zip(data.examples, data.outputs, strict=True):
            assert isinstance(example.details, Words)
            probabilities = output["probabilities"][example.details.positions]
            best, prediction = probabilities.argmax(-1), predictions[example.row]
            prediction["tags"] += [self.metadata.labels[number] for number in best]
            prediction["probabilities"] += probabilities.max(-1).tolist()
        if has_entities([self.metadata.labels]):
            for prediction in predictions:
                prediction["entities"] = _entities(prediction["words"], prediction["tags"])
        return predictions

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        predicted = [prediction["tags"] for prediction in predictions]
        pairs = zip(rows, predicted, strict=True)
        truth = [self.config.tags_of(row, len(words)) for row, words in pairs]
        return (entities if has_entities([self.metadata.labels]) else tags)(truth, predicted)

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """Tokenize each word as after a space; at least one token each."""
        tokenizer = self.context.tokenizer
        # Some tokenizers add a leading space to a text, others need it spelled out.
        first = tokenizer.encode("a")[:1]
        adds_space = bool(first) and tokenizer.piece_bytes(first[0]).startswith(b" ")
        encoded = tokenizer.encode_batch([word if adds_space else f" {word}" for word in words])
        # Words that encode to nothing, such as control characters, become a question mark.
        return [pieces or tokenizer.encode("?") for pieces in encoded]

    def _parts(
        self, row: int, pieces: Sequence[Sequence[int]], targets: Sequence[int] | None, space: int
    ) -> list[Example]:
        """Split one sentence into examples of at most `space` tokens plus special tokens."""
        parts, first = [], 0
        while first < len(pieces):
            last, size = first, 0
            while last < len(pieces) and size + len(pieces[last]) <= space:
                size += len(pieces[last])
                last += 1
            parts.append(self._part(row, first, pieces[first:last], targets))
            first = last
        return parts

    def _part(
        self, row: int, first: int, pieces: Sequence[Sequence[int]], targets: Sequence[int] | None
    ) -> Example:
        tokenizer = self.context.tokenizer
        tokens, types = tokenizer.wrap([token for word in pieces for token in word])
        sizes = [len(word) for word in pieces]
        positions = len(tokenizer.prefix) + np.cumsum([0, *sizes[:-1]])
        numbers, weights = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32)
        if targets is not None:
            numbers[positions] = targets[first : first + len(pieces)]
            weights[positions] = 1.0
        segment = Segment(tokens, types, numbers.tolist(), weights.tolist())
        weight = float(targets is not None)
        return Example((segment,), NO_TARGET, weight, row, Words(first, positions))


def _entities(words: Sequence[str], predicted: Sequence[str]) -> list[dict[str, Any]]:
    """Convert tags to entities as plain data; first and last are word indices."""
    return [
        {
            "kind": entity.kind,
            "text": " ".join(words[entity.first : entity.last]),
            "first": entity.first,
            "last": entity.last - 1,
        }
        for entity in spans(predicted)
    ]
