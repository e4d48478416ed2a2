"""Objectives of encoder-decoders: the encoder reads a part of each document, the decoder writes
the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.causal import Causal, Prefix
from llmjax.data.objectives.config import Objective, PartConfig, sentinel
from llmjax.data.objectives.vocabulary import Vocabulary, encoder_input, missing_token
from llmjax.data.objectives.windows import Keys, Windows, pair_spec, split_points

MULTIPLE = 16
"""The decoder's rows are rounded up to a multiple of this if possible, to divide over devices."""


@dataclass(frozen=True)
class SpanConfig(PartConfig):
    """Span corruption (T5, arXiv:1910.10683). For encoder-decoders."""

    density: float = 0.15
    """Share of a row's text tokens that are removed."""
    mean_length: float = 3.0
    """Mean number of tokens per span."""
    sentinels: int = 100
    """Number of sentinel tokens, hence the maximum number of spans per document of a row."""
    kind: Literal["span"] = "span"

    models: ClassVar = ("encoder-decoder",)

    @property
    def control_pieces(self) -> tuple[str, ...]:
        return tuple(map(sentinel, range(self.sentinels)))

    def value_problems(self) -> Iterator[str]:
        yield from super().value_problems()
        if not 0 < self.density < 1:
            yield f".density: {self.density} is not between 0 and 1"
        if not 1 <= self.mean_length < 1e9:
            yield f".mean_length: {self.mean_length} is not at least 1"
        if self.sentinels < 1:
            yield f".sentinels: {self.sentinels} is not positive"

    def build(self, vocabulary: Vocabulary, is_encoder_decoder: bool) -> Objective:
        available = len(vocabulary.sentinels)
        if available < self.sentinels:
            required = f"{self.sentinels} sentinels (it has {available})"
            raise missing_token(required, f"{sentinel(0)} and so on")
        return Spans(self, vocabulary)


@dataclass(frozen=True)
class PrefixConfig(PartConfig):
    """The rest of each document from its beginning, split at a random point. For encoder-decoders,
    and for decoders, where only the rest has weight."""

    kind: Literal["prefix"] = "prefix"

    models: ClassVar = ("encoder-decoder", "decoder")

    def build(self, vocabulary: Vocabulary, is_encoder_decoder: bool) -> Objective:
        if is_encoder_decoder:
            return Continuation(vocabulary)
        return Prefix(Causal(vocabulary.bos, vocabulary.pad))


class Pair(NamedTuple):
    """One row of the encoder (source, int [n]) and of the decoder (target, int [m]).

    Segments number the documents, in ascending order.
    """

    source: np.ndarray
    source_segments: np.ndarray
    target: np.ndarray
    target_segments: np.ndarray


@dataclass(frozen=True, eq=False)
class Spans:
    """T5's span corruption (arXiv:1910.10683, section 3.1.4); see SpanConfig.

    `a b c d e` becomes `a <extra_id_0> d e` for the encoder, and `<extra_id_0> b c EOS` for the
    decoder. No span crosses documents; sentinels count from 0 in each document.
    """

    config: SpanConfig
    vocabulary: Vocabulary

    def spec(self, rows: int, length: int) -> BatchSpec:
        """A decoder's row has room for the noise tokens of a row, a sentinel per span, and several
        EOS; in a row of very many documents the last spans are not removed.
        """
        noise, spans = self._amounts(length)
        needed = noise + spans + max(4, length // 64)
        target = min(-(-needed // MULTIPLE) * MULTIPLE, length)
        return pair_spec(rows, target, length, self.vocabulary.pad)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """See `pad_pairs`."""
        tokens = encoder_input(windows, self.vocabulary)
        spec = self.spec(*tokens.shape)
        rows = []
        for row, segments, key in zip(tokens, windows.segments, keys, strict=True):
            columns = np.flatnonzero(self.vocabulary.text[row] & (segments > 0))
            noise = np.zeros(len(row), bool)
            noise[columns] = self._noise(np.random.default_rng(key), len(columns))
            rows.append(self._pair(row, segments, noise, spec["targets"].shape[1]))
        return pad_pairs(rows, spec, self.vocabulary)

    def _amounts(self, tokens: int) -> tuple[int, int]:
        """The number of noise tokens and of spans among two or more tokens."""
        noise = min(max(round(tokens * self.config.density), 1), max(tokens - 1, 1))
        spans = min(round(noise / self.config.mean_length), tokens - noise)
        return noise, max(1, spans)

    def _noise(self, generator: np.random.Generator, tokens: int) -> np.ndarray:
        """A random noise mask, bool [tokens]: alternating runs of text and noise."""
        if tokens < 2:
            return np.zeros(tokens, bool)
        noise, spans = self._amounts(tokens)
        kept = _random_partition(generator, tokens - noise, spans)
        lengths = np.stack([kept, _random_partition(generator, noise, spans)], axis=1).ravel()
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)

    def _pair(self, row: np.ndarray, segments: np.ndarray, noise: np.ndarray, room: int) -> Pair:
        """Moves the spans of `noise` of a row to the decoder, as far as they fit there."""
        sentinels = self.vocabulary.sentinels[: self.config.sentinels]
        source, kept = row.copy(), segments > 0
        target: list[int] = []
        target_segments: list[int] = []
        number = 0
        for begin, end in _runs(noise, segments):
            segment = int(segments[begin])
            is_new = not target_segments or target_segments[-1] != segment
            number = 0 if is_new else number
            # The sentinel, the span, EOS of the previous document and of this one.
            if len(target) + 1 + end - begin + is_new + 1 > room or number == len(sentinels):
                continue
            if is_new and target_segments:
                target.append(self.vocabulary.eos)
                target_segments.append(target_segments[-1])
            target += [int(sentinels[number]), *row[begin:end].tolist()]
            target_segments += [segment] * (1 + end - begin)
            source[begin] = sentinels[number]
            kept[begin + 1 : end] = False
            number += 1
        if target_segments:
            target.append(self.vocabulary.eos)
            target_segments.append(target_segments[-1])
        return Pair(
            source[kept], segments[kept], np.array(target, int), np.array(target_segments, int)
        )


@dataclass(frozen=True, eq=False)
class Continuation:
    """Splits each document of a row at a random point: the encoder reads the beginning, the decoder
    writes the rest. Documents with a single token in the row are dropped."""

    vocabulary: Vocabulary

    def spec(self, rows: int, length: int) -> BatchSpec:
        """See Objective."""
        return pair_spec(rows, length, length, self.vocabulary.pad)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """See `pad_pairs`."""
        rows = [self._pair(windows.take(np.array([row])), key) for row, key in enumerate(keys)]
        return pad_pairs(rows, self.spec(*windows.tokens.shape), self.vocabulary)

    def _pair(self, window: Windows, key: tuple[int, ...]) -> Pair:
        tokens, first, segments, positions = (
            array[0] for array in (window.tokens, window.first, window.segments, window.positions)
        )
        splits = split_points(segments, key)[segments]
        is_source = (positions < splits) & (splits > 0)
        is_target = (positions >= splits) & (splits > 0)
        source, source_segments = tokens[is_source], segments[is_source]
        if self.vocabulary.starts_with_bos:
            begins = np.flatnonzero(first[is_source])
            source = np.insert(source, begins, self.vocabulary.bos)
            source_segments = np.insert(source_segments, begins, source_segments[begins])
        return Pair(source, source_segments, tokens[is_target], segments[is_target])


def pad_pairs(rows: Sequence[Pair], spec: BatchSpec, vocabulary: Vocabulary) -> Arrays:
    """Pads rows into a batch.

    Returns:
      encoder_tokens, encoder_segments, encoder_positions int32 [R, S]; for the decoder inputs (the
      targets shifted right behind BOS), targets, segments, positions int32 [R, T] and weights
      float32 [R, T], 1 at each target.
    """
    batch = {name: array.blank(len(rows)) for name, array in spec.items()}
    for row, pair in enumerate(rows):
        source, target = len(pair.source), len(pair.target)
        batch["encoder_tokens"][row, :source] = pair.source
        batch["encoder_segments"][row, :source] = pair.source_segments
        batch["targets"][row, :target] = pair.target
        batch["segments"][row, :target] = pair.target_segments
    segments = batch["segments"]
    batch["encoder_positions"] = _positions(batch["encoder_segments"])
    batch["positions"] = positions = _positions(segments)
    shifted = np.roll(batch["targets"], 1, axis=1)
    inputs = np.where(positions == 0, vocabulary.bos, shifted)
    batch["inputs"] = np.where(segments > 0, inputs, vocabulary.pad).astype(np.int32)
    batch["weights"] = (segments > 0).astype(np.float32)
    return batch


def _random_partition(generator: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """Draws a composition of `total` into `parts` positive numbers, uniformly."""
    ends = 1 + np.sort(generator.choice(total - 1, parts - 1, replace=False))
    return np.diff(ends, prepend=0, append=total)


def _runs(noise: np.ndarray, segments: np.ndarray) -> Iterator[tuple[int, int]]:
    """(begin, end) of each run of noise within a document."""
    joined = np.zeros(len(noise) + 1, bool)
    joined[1:-1] = noise[1:] & noise[:-1] & (segments[1:] == segments[:-1])
    begins = np.flatnonzero(noise & ~joined[:-1])
    ends = np.flatnonzero(noise & ~joined[1:]) + 1
    return zip(begins.tolist(), ends.tolist(), strict=True)


def _positions(segments: np.ndarray) -> np.ndarray:
    """Positions from 0 in each segment, int32 [R, L]; 0 in padding."""
    columns = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.ones(segments.shape, bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return np.where(segments > 0, columns - start, 0).astype(np.int32)
