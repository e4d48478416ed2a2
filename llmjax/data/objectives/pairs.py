"""Rows for encoder-decoders: of each document in a row, some is given and some is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from llmjax.data.batch import Arrays, BatchSpec
from llmjax.data.objectives.causal import Causal, Prefix
from llmjax.data.objectives.config import Objective, PartConfig, sentinel
from llmjax.data.objectives.vocabulary import Vocabulary, as_read, missing_token
from llmjax.data.objectives.windows import Keys, Windows, pair_spec, split_points

MULTIPLE = 16
"""The decoder's rows are rounded up to this where they can be, to divide over devices."""


@dataclass(frozen=True)
class SpanConfig(PartConfig):
    """Spans that were left out of a text (T5, arXiv:1910.10683). For encoder-decoders."""

    density: float = 0.15
    """Share of a row's tokens of text that are left out."""
    mean_length: float = 3.0
    """Tokens in a span, on average."""
    sentinels: int = 100
    """Tokens that stand for spans, and so the most spans of a document in a row."""
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

    def build(self, vocabulary: Vocabulary, encodes: bool) -> Objective:
        available = len(vocabulary.sentinels)
        if available < self.sentinels:
            wanted = f"{self.sentinels} sentinels (it has {available})"
            raise missing_token(wanted, f"{sentinel(0)} and so on")
        return Spans(self, vocabulary)


@dataclass(frozen=True)
class PrefixConfig(PartConfig):
    """Each document of a row is cut at a random place: its rest from its beginning. For
    encoder-decoders; and for decoders, where the rest alone has weight."""

    kind: Literal["prefix"] = "prefix"

    models: ClassVar = ("encoder-decoder", "decoder")

    def build(self, vocabulary: Vocabulary, encodes: bool) -> Objective:
        if encodes:
            return Continuation(vocabulary)
        return Prefix(Causal(vocabulary.bos, vocabulary.pad))


class Pair(NamedTuple):
    """One row: what the encoder reads and what the decoder writes, int [n] and [m] each.

    Tokens of the same document have the same segment; segments rise.
    """

    source: np.ndarray
    source_segments: np.ndarray
    target: np.ndarray
    target_segments: np.ndarray


@dataclass(frozen=True, eq=False)
class Spans:
    """T5's span corruption (arXiv:1910.10683, section 3.1.4); see SpanConfig.

    `a b c d e` becomes `a <extra_id_0> d e` for the encoder, and `<extra_id_0> b c EOS` for the
    decoder. A span ends where its document does; sentinels count from 0 in each document.
    """

    config: SpanConfig
    vocabulary: Vocabulary

    def spec(self, rows: int, length: int) -> BatchSpec:
        """A decoder's row has room for a row's share of noise, a sentinel for each span, and EOS of
        several documents; of a row of very many documents the last spans are left in place.
        """
        noise, spans = self._amounts(length)
        needed = noise + spans + max(4, length // 64)
        target = min(-(-needed // MULTIPLE) * MULTIPLE, length)
        return pair_spec(rows, target, length, self.vocabulary.pad)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """See `laid_out`."""
        tokens = as_read(windows, self.vocabulary)
        spec = self.spec(*tokens.shape)
        rows = []
        for row, segments, key in zip(tokens, windows.segments, keys, strict=True):
            free = np.flatnonzero(self.vocabulary.text[row] & (segments > 0))
            noise = np.zeros(len(row), bool)
            noise[free] = self._noise(np.random.default_rng(key), len(free))
            rows.append(self._pair(row, segments, noise, spec["targets"].shape[1]))
        return laid_out(rows, spec, self.vocabulary)

    def _amounts(self, tokens: int) -> tuple[int, int]:
        """How many of two or more tokens are left out, and in how many spans."""
        noise = min(max(round(tokens * self.config.density), 1), max(tokens - 1, 1))
        spans = min(round(noise / self.config.mean_length), tokens - noise)
        return noise, max(1, spans)

    def _noise(self, generator: np.random.Generator, tokens: int) -> np.ndarray:
        """bool [tokens]: spans of random lengths, with stretches of random lengths before each."""
        if tokens < 2:
            return np.zeros(tokens, bool)
        noise, spans = self._amounts(tokens)
        kept = _parts(generator, tokens - noise, spans)
        lengths = np.stack([kept, _parts(generator, noise, spans)], axis=1).ravel()
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)

    def _pair(self, row: np.ndarray, segments: np.ndarray, noise: np.ndarray, room: int) -> Pair:
        """One row; its spans of `noise` are moved to the decoder, as far as they fit there."""
        sentinels = self.vocabulary.sentinels[: self.config.sentinels]
        source, kept = row.copy(), segments > 0
        written: list[int] = []
        owners: list[int] = []
        number = 0
        for begin, end in _runs(noise, segments):
            owner = int(segments[begin])
            fresh = not owners or owners[-1] != owner
            number = 0 if fresh else number
            # Its sentinel, itself, and EOS of the document before it and of its own.
            if len(written) + 1 + end - begin + fresh + 1 > room or number == len(sentinels):
                continue
            if fresh and owners:
                written.append(self.vocabulary.eos)
                owners.append(owners[-1])
            written += [int(sentinels[number]), *row[begin:end].tolist()]
            owners += [owner] * (1 + end - begin)
            source[begin] = sentinels[number]
            kept[begin + 1 : end] = False
            number += 1
        if owners:
            written.append(self.vocabulary.eos)
            owners.append(owners[-1])
        return Pair(source[kept], segments[kept], np.array(written, int), np.array(owners, int))


@dataclass(frozen=True, eq=False)
class Continuation:
    """Each document of a row is cut at a random place: the encoder reads its beginning, the decoder
    writes the rest. One of which the row holds a single token is left out."""

    vocabulary: Vocabulary

    def spec(self, rows: int, length: int) -> BatchSpec:
        """See Objective."""
        return pair_spec(rows, length, length, self.vocabulary.pad)

    def batch(self, windows: Windows, keys: Keys) -> Arrays:
        """See `laid_out`."""
        rows = [self._pair(windows.take(np.array([row])), key) for row, key in enumerate(keys)]
        return laid_out(rows, self.spec(*windows.tokens.shape), self.vocabulary)

    def _pair(self, window: Windows, key: tuple[int, ...]) -> Pair:
        tokens, first, segments, positions = (
            array[0] for array in (window.tokens, window.first, window.segments, window.positions)
        )
        cuts = split_points(segments, key)
        given = (positions < cuts[segments]) & (cuts[segments] > 0)
        written = (positions >= cuts[segments]) & (cuts[segments] > 0)
        source, owners = tokens[given], segments[given]
        if self.vocabulary.leads:
            begins = np.flatnonzero(first[given])
            source = np.insert(source, begins, self.vocabulary.bos)
            owners = np.insert(owners, begins, owners[begins])
        return Pair(source, owners, tokens[written], segments[written])


def laid_out(rows: Sequence[Pair], spec: BatchSpec, vocabulary: Vocabulary) -> Arrays:
    """Rows side by side, padded.

    Returns:
      encoder_tokens, encoder_segments, encoder_positions int32 [R, S]; inputs, targets, segments,
      positions int32 [R, T] and weights float32 [R, T], 1 at each target, for the decoder, whose
      inputs are BOS and the targets before.
    """
    batch = {name: array.blank(len(rows)) for name, array in spec.items()}
    for row, pair in enumerate(rows):
        source, target = len(pair.source), len(pair.target)
        batch["encoder_tokens"][row, :source] = pair.source
        batch["encoder_segments"][row, :source] = pair.source_segments
        batch["targets"][row, :target] = pair.target
        batch["segments"][row, :target] = pair.target_segments
    owners = batch["segments"]
    batch["encoder_positions"] = _positions(batch["encoder_segments"])
    batch["positions"] = positions = _positions(owners)
    shifted = np.roll(batch["targets"], 1, axis=1)
    inputs = np.where(positions == 0, vocabulary.bos, shifted)
    batch["inputs"] = np.where(owners > 0, inputs, vocabulary.pad).astype(np.int32)
    batch["weights"] = (owners > 0).astype(np.float32)
    return batch


def _parts(generator: np.random.Generator, whole: int, parts: int) -> np.ndarray:
    """A random way to write `whole` as a sum of so many positive numbers, all equally likely."""
    cuts = 1 + np.sort(generator.choice(whole - 1, parts - 1, replace=False))
    return np.diff(cuts, prepend=0, append=whole)


def _runs(noise: np.ndarray, segments: np.ndarray) -> Iterator[tuple[int, int]]:
    """(begin, end) of each stretch of noise within a document."""
    joined = np.zeros(len(noise) + 1, bool)
    joined[1:-1] = noise[1:] & noise[:-1] & (segments[1:] == segments[:-1])
    begins = np.flatnonzero(noise & ~joined[:-1])
    ends = np.flatnonzero(noise & ~joined[1:]) + 1
    return zip(begins.tolist(), ends.tolist(), strict=True)


def _positions(segments: np.ndarray) -> np.ndarray:
    """int32 [R, L]: count from 0 in each segment; 0 in padding."""
    columns = np.broadcast_to(np.arange(segments.shape[1]), segments.shape)
    begins = np.ones(segments.shape, bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return np.where(segments > 0, columns - start, 0).astype(np.int32)
