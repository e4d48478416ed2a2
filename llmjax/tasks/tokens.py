"""A tag for every word: named entities, parts of speech."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from llmjax.data.tables.table import Row, list_at
from llmjax.errors import UserError
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import TokenTask, name_of
from llmjax.tasks.example import Example, Segment
from llmjax.tasks.heads import Head
from llmjax.tasks.labels import label_of, labels_of, number_of
from llmjax.tasks.of_tokens import OfTokens
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Write

log = logging.getLogger(__name__)


class Words(NamedTuple):
    """Which words of a row an example holds: from `first` on, each with the place of its first
    token, int [words]."""

    first: int
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class Tokens(OfTokens):
    """A tag for every word, told by its first token; a word's other tokens have no target.

    A sentence that is longer than a row is read in parts, which begin and end with whole words.
    """

    config: TokenTask
    outputs_per_target = 0

    @staticmethod
    def find(config: TokenTask, rows: Sequence[Row]) -> Facts:
        """The tags that there are, in order, and how many words have each.

        Raises:
          UserError: a row without tags or with another number of them, or fewer than two tags.
        """
        every = (tag for row in rows for tag in _tags_at(row, config, len(_words_at(row, config))))
        return labels_of(name_of(config), config.tags, every)

    @property
    def head(self) -> Head:
        return self.token_head(self.config, len(self.facts.labels))

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        words = [_words_at(row, self.config) for row in rows]
        pieces = iter(self._pieces([word for sentence in words for word in sentence]))
        known = {label: number for number, label in enumerate(self.facts.labels)}
        room = max(1, self.setting.length - len(self.setting.tokenizer.wrap([])[0]))
        found: list[Example] = []
        for number, (row, sentence) in enumerate(zip(rows, words, strict=True)):
            targets = None
            if self.config.tags in row.values:
                tags = _tags_at(row, self.config, len(sentence))
                targets = [number_of(row, tag, known) for tag in tags]
            cut = [next(pieces)[:room] for _ in sentence]
            found += self._parts(number, cut, targets, room)
        if len(found) > len(rows):
            split = len(found) - len({example.row for example in found})
            log.warning("sentences longer than %d tokens are read in parts: %d more", room, split)
        return found

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        logits = self.logits(self.config, self.head, model, params, batch, key)
        return softmax_cross_entropy(logits, batch["targets"], batch["weights"])

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        logits = self.logits(self.config, self.head, model, params, batch, None)
        return Outputs(tokens={"probabilities": jax.nn.softmax(logits, axis=-1)})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        from llmjax.metrics.tags import has_entities, spans

        told: list[dict[str, Any]] = [
            {"words": _words_at(row, self.config), "tags": [], "probabilities": []} for row in rows
        ]
        for example, one in zip(examples, found, strict=True):
            assert isinstance(example.place, Words)
            shares = one["probabilities"][example.place.places]
            best = shares.argmax(-1)
            told[example.row]["tags"] += [self.facts.labels[number] for number in best]
            told[example.row]["probabilities"] += shares.max(-1).tolist()
        if has_entities([self.facts.labels]):
            for answer in told:
                answer["entities"] = [
                    {
                        "kind": entity.kind,
                        "text": " ".join(answer["words"][entity.first : entity.last]),
                        "first": entity.first,
                        "last": entity.last - 1,
                    }
                    for entity in spans(answer["tags"])
                ]
        return told

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        from llmjax.metrics.tags import entities, has_entities, tags

        told = [one["tags"] for one in predictions]
        truth = [_tags_at(row, self.config, len(one)) for row, one in zip(rows, told, strict=True)]
        return entities(truth, told) if has_entities([self.facts.labels]) else tags(truth, told)

    def _pieces(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of each word, as it stands behind a space; at least one for each."""
        tokenizer = self.setting.tokenizer
        # Some tokenizers mark the beginning of a text as that of a word, others need the space.
        first = tokenizer.encode("a")[:1]
        marks = bool(first) and tokenizer.piece_bytes(first[0]).startswith(b" ")
        found = tokenizer.encode_batch([word if marks else f" {word}" for word in words])
        # What a tokenizer drops, such as control characters, is read as a question mark.
        return [pieces or tokenizer.encode("?") for pieces in found]

    def _parts(
        self, row: int, pieces: Sequence[Sequence[int]], targets: Sequence[int] | None, room: int
    ) -> list[Example]:
        """One sentence as examples of at most `room` tokens and what stands around them."""
        found, first = [], 0
        while first < len(pieces):
            last, size = first, 0
            while last < len(pieces) and size + len(pieces[last]) <= room:
                size += len(pieces[last])
                last += 1
            found.append(self._part(row, first, pieces[first:last], targets))
            first = last
        return found

    def _part(
        self, row: int, first: int, pieces: Sequence[Sequence[int]], targets: Sequence[int] | None
    ) -> Example:
        tokenizer = self.setting.tokenizer
        tokens, types = tokenizer.wrap([token for word in pieces for token in word])
        sizes = [len(word) for word in pieces]
        places = len(tokenizer.prefix) + np.cumsum([0, *sizes[:-1]])
        told, weights = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.float32)
        if targets is not None:
            told[places] = targets[first : first + len(pieces)]
            weights[places] = 1.0
        segment = Segment(tokens, types, told.tolist(), weights.tolist())
        nothing = np.zeros(0, np.float32)
        return Example((segment,), nothing, float(targets is not None), row, Words(first, places))


def _words_at(row: Row, config: TokenTask) -> list[str]:
    words = list_at(row, config.tokens)
    if not words:
        place = f"{row.place}, column {config.tokens!r}"
        raise UserError(place, "has no words", "fill it in or remove the row")
    if not all(isinstance(word, str | int | float) for word in words):
        place = f"{row.place}, column {config.tokens!r}"
        raise UserError(place, "holds what is no word", "give a list of texts")
    return [str(word) for word in words]


def _tags_at(row: Row, config: TokenTask, words: int) -> list[str]:
    tags = list_at(row, config.tags)
    if len(tags) != words:
        reason = f"has {len(tags)} tags for {words} words"
        raise UserError(f"{row.place}, column {config.tags!r}", reason, "give each word one")
    return [label_of(row, config.tags, tag) for tag in tags]
