"""A tag for every word: named entities, parts of speech."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from llmjax.data.tables.table import Row, list_at
from llmjax.errors import UserError
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
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
    """A tag for every word (named entities, parts of speech), predicted at its first token."""

    tokens: str = "tokens"
    """Column of the words: a list, or text with spaces between them."""
    tags: str = "tags"
    """Column of the tags, as many as words. Tags B-X and I-X are evaluated as whole entities."""
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
        """The words of a row; UserError where it has none."""
        words, place = list_at(row, self.tokens), f"{row.place}, column {self.tokens!r}"
        if not words:
            raise UserError(place, "has no words", "fill it in or remove the row")
        if not all(isinstance(word, str | int | float) for word in words):
            raise UserError(place, "holds what is no word", "give a list of texts")
        return [str(word) for word in words]

    def tags_of(self, row: Row, words: int) -> list[str]:
        """The tags of a row; UserError where there are not as many as words."""
        values = list_at(row, self.tags)
        if len(values) != words:
            reason = f"has {len(values)} tags for {words} words"
            raise UserError(f"{row.place}, column {self.tags!r}", reason, "give each word one")
        return [as_label(row, self.tags, value) for value in values]

    def find_metadata(self, rows: Sequence[Row]) -> TaskMetadata:
        """The tags, in order, and how many words have each."""
        every = (tag for row in rows for tag in self.tags_of(row, len(self.words_of(row))))
        return label_metadata(name_of(self), self.tags, every)

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
        sides = (" ".join(f"{words[n]}/{side[n]}" for n in wrong) for side in (truth, predicted))
        return (len(wrong) / len(words), *sides)  # type: ignore[return-value]

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "TokenClassification":
        return TokenClassification(context, metadata, self)


class Words(NamedTuple):
    """Which words of a row an example holds: from `first` on, each with the position of its first
    token, int [words]."""

    first: int
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class TokenClassification(TokenTask):
    """A tag for every word, predicted at its first token; a word's other tokens have no target.

    A sentence that is longer than a row is read in parts, which begin and end with whole words.
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
            log.warning("sentences longer than %d tokens are read in parts: %d more", space, split)
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        logits = self.logits(model, params, batch, key)
        return softmax_cross_entropy(logits, batch["targets"], batch["weights"])

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        logits = self.logits(model, params, batch, None)
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
        truth = [self.config.tags_of(row, len(found)) for row, found in pairs]
        return (entities if has_entities([self.metadata.labels]) else tags)(truth, predicted)

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word, as it stands behind a space; at least one for each."""
        tokenizer = self.context.tokenizer
        # Some tokenizers mark the beginning of a text as that of a word, others need the space.
        first = tokenizer.encode("a")[:1]
        marks = bool(first) and tokenizer.piece_bytes(first[0]).startswith(b" ")
        encoded = tokenizer.encode_batch([word if marks else f" {word}" for word in words])
        # What a tokenizer drops, such as control characters, is read as a question mark.
        return [pieces or tokenizer.encode("?") for pieces in encoded]

    def _parts(
        self, row: int, pieces: Sequence[Sequence[int]], targets: Sequence[int] | None, space: int
    ) -> list[Example]:
        """One sentence as examples of at most `space` tokens and what stands around them."""
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
    """The entities that tags mark, as plain data; first and last are words' numbers."""
    return [
        {
            "kind": entity.kind,
            "text": " ".join(words[entity.first : entity.last]),
            "first": entity.first,
            "last": entity.last - 1,
        }
        for entity in spans(predicted)
    ]
