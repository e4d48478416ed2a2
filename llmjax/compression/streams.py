"""Encodes tokens to parallel streams of bytes and decodes them: model and entropy coder together.

Both directions run the same steps (see `codec`): encoding is given the symbols, decoding finds
them.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.compression.codec import CodecStepper, Interval
from llmjax.compression.rans import BITS, StreamReader, checksums, write_streams
from llmjax.errors import UserError

Report = Callable[[float, float], None]
"""Called periodically with the share of steps done and the bytes that they encode to."""

AHEAD = 16  # steps to dispatch before waiting for the first of them


class EncodedTokens(NamedTuple):
    """Encoded tokens.

    Attributes:
      streams: the bytes of each stream.
      bits: float64 [tokens], the cost of each token.
      positions: int32 [tokens], the position of each token in its window; a token at position p is
        predicted from p + 1 tokens, including BOS.
    """

    streams: list[bytes]
    bits: np.ndarray
    positions: np.ndarray


def encode_tokens(stepper: CodecStepper, tokens: np.ndarray, report: Report) -> EncodedTokens:
    """Splits tokens into streams and encodes them.

    Args:
      stepper: model and layout.
      tokens: int32 [n], all allowed (see `allowed_ids`).
      report: called with progress.
    """
    layout = stepper.layout
    lengths = layout.lengths(len(tokens))
    rows = _rows(tokens, lengths, stepper.lm.tokenizer.bos_id)
    progress = _GroupProgress(layout.groups, report)
    groups = [_Encoding(part, progress) for part in np.split(rows, layout.groups)]
    stepper.run(rows.shape[1], groups)
    starts, freqs = map(np.concatenate, zip(*(group.intervals() for group in groups), strict=True))
    coded = np.arange(starts.shape[1]) < lengths[:, None]
    steps = stepper.positions(starts.shape[1])
    positions = np.array([step.position for step in steps], np.int32)
    return EncodedTokens(
        write_streams(starts, freqs, lengths, checksums(rows, lengths)),
        BITS - np.log2(freqs[coded].astype(np.float64)),
        np.broadcast_to(positions, starts.shape)[coded],
    )


def decode_tokens(
    stepper: CodecStepper, streams: Sequence[bytes], count: int, report: Report
) -> np.ndarray:
    """Decodes streams to the tokens, int32 [count], that `encode_tokens` encoded.

    Raises:
      UserError: a stream is damaged; the message names it.
    """
    layout = stepper.layout
    lengths = layout.lengths(count)
    steps, progress = int(lengths.max()), _GroupProgress(layout.groups, report)
    filler, groups = stepper.lm.tokenizer.bos_id, []
    StreamReader(streams, lengths)  # raises an error that names a malformed stream
    for part in np.split(np.arange(layout.streams), layout.groups):
        reader = StreamReader([streams[index] for index in part], lengths[part])
        groups.append(_Decoding(reader, lengths[part], steps, filler, progress))
    stepper.run(steps, groups)
    tokens = np.concatenate([group.tokens for group in groups])
    sums = np.split(checksums(tokens, lengths), layout.groups)
    finished = [group.reader.finished(part) for group, part in zip(groups, sums, strict=True)]
    if not (valid := np.concatenate(finished)).all():
        stream = int(np.argmin(valid))
        raise UserError(
            f"stream {stream}", "its checksum differs", "the archive or model is damaged"
        )
    return tokens[np.arange(steps) < lengths[:, None]]


def determinism_hash(stepper: CodecStepper, windows: bool) -> str:
    """Hashes the intervals of fixed tokens, computed by every program that coding uses.

    An interval's start is the sum of the frequencies of all symbols before it, so nearly every
    difference between two machines changes the hash.

    Args:
      stepper: model and layout.
      windows: whether coding may reach a second window.
    """
    layout, ids = stepper.layout, np.flatnonzero(np.asarray(stepper.allowed))
    # Part of the archive format, names included.
    shape = "Shape(lanes={0.streams}, context={0.context}, stride={0.stride}, groups={0.groups})"
    settings = f"({shape.format(layout)}, {windows}, {len(ids)}, {BITS})"
    digest = hashlib.blake2b(settings.encode(), digest_size=16)

    def fixed_tokens(seed: int, width: int) -> np.ndarray:
        numbers = np.arange(seed, seed + layout.rows * width, dtype=np.uint64)
        mixed = (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
        return ids[mixed % np.uint64(len(ids))].reshape(layout.rows, width).astype(np.int32)

    starts = [(partial(stepper.empty, slots), slots) for slots in layout.caches]
    if windows:
        overlap = layout.context - layout.stride
        slots = next(slots for slots in layout.caches if slots > overlap)
        starts.append((partial(stepper.prefilled, fixed_tokens(7, overlap), slots), slots))
    for make_cache, slots in starts:
        cache = make_cache()
        inputs = jnp.asarray(fixed_tokens(slots, 1)[:, 0])
        targets = np.zeros(layout.rows, np.uint32)
        for position in range(max(0, slots - 3), slots):
            symbols = fixed_tokens(slots + 1000 * position, 1)[:, 0]
            interval, cache = stepper.step(cache, inputs, position, symbols, targets, False)
            inputs = interval.symbol
            for part in interval:
                digest.update(np.asarray(part).astype("<u4").tobytes())
    return digest.hexdigest()


def _rows(tokens: np.ndarray, lengths: np.ndarray, filler: int) -> np.ndarray:
    """Arranges tokens as streams, int32 [streams, steps], padded with `filler`."""
    steps = int(lengths.max())
    rows = np.full((len(lengths), steps), filler, np.int32)
    rows[np.arange(steps) < lengths[:, None]] = tokens
    return rows


class _GroupProgress:
    """The combined progress of all groups, each reported from its own thread."""

    def __init__(self, groups: int, report: Report):
        self._shares, self._sizes = np.zeros(groups), np.zeros(groups)
        self._lock, self._added, self._report = Lock(), 0, report

    def add_group(self) -> Report:
        """Returns the callback of the next group."""
        self._added += 1
        return partial(self._update, self._added - 1)

    def _update(self, group: int, share: float, size: float) -> None:
        with self._lock:
            self._shares[group], self._sizes[group] = share, size
            self._report(float(self._shares.mean()), float(self._sizes.sum()))


class _Encoding:
    """Encoding of a group: provides symbols, collects intervals."""

    def __init__(self, tokens: np.ndarray, progress: _GroupProgress):
        self.tokens, self._report = tokens, progress.add_group()
        self._targets = np.zeros(len(tokens), np.uint32)
        self._pending: list[Interval] = []
        self._intervals: list[Interval] = []
        self._bits = 0.0

    def query(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        return self.tokens[:, step], self._targets, False

    def receive(self, step: int, interval: Interval) -> None:
        self._pending.append(interval)
        if len(self._pending) >= AHEAD:
            self._fetch()
            self._report((step + 1) / self.tokens.shape[1], self._bits / 8)

    def history(self, start: int, end: int) -> np.ndarray:
        return self.tokens[:, start:end]

    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts and frequencies, uint32 [streams, steps]."""
        self._fetch()
        return tuple(  # type: ignore[return-value]
            np.array([getattr(interval, name) for interval in self._intervals], np.uint32)
            .reshape(-1, len(self.tokens))
            .T
            for name in ("start", "freq")
        )

    def _fetch(self) -> None:
        intervals = jax.device_get(self._pending)
        means = (np.log2(np.maximum(interval.freq, 1)).mean() for interval in intervals)
        self._bits += len(self.tokens) * float(sum(BITS - mean for mean in means))
        self._intervals += intervals
        self._pending.clear()


class _Decoding:
    """Decoding of a group: provides targets, collects symbols."""

    def __init__(
        self,
        reader: StreamReader,
        lengths: np.ndarray,
        steps: int,
        filler: int,
        progress: _GroupProgress,
    ):
        self.reader, self._lengths, self._report = reader, lengths, progress.add_group()
        self._symbols = np.full(len(lengths), filler, np.int32)
        self.tokens = np.full((len(lengths), steps), filler, np.int32)

    def query(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        # Streams that are one token shorter find an arbitrary symbol in the last step.
        return self._symbols, self.reader.targets, True

    def receive(self, step: int, interval: Interval) -> None:
        symbols, starts, freqs = jax.device_get(tuple(interval))
        self.reader.advance(starts, freqs)
        active = step < self._lengths
        self.tokens[active, step] = symbols[active]
        if step % AHEAD == AHEAD - 1:
            self._report((step + 1) / self.tokens.shape[1], 0.0)

    def history(self, start: int, end: int) -> np.ndarray:
        return self.tokens[:, start:end]
