"""Model and coder together: tokens to the bytes of lanes, and back.

Both directions take the same walk (see `lanes`); one knows the symbols, the other finds them.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.compression.coder import BITS, LaneReader, checksums, write_lanes
from llmjax.compression.intervals import Interval
from llmjax.compression.lanes import Walker
from llmjax.errors import UserError

Report = Callable[[float, float], None]
"""Told now and then which share of the steps is done, and how many bytes they have come to."""

AHEAD = 16  # steps that are started before the first of them is waited for


class Coded(NamedTuple):
    """Tokens, coded.

    Attributes:
      lanes: the bytes of each lane.
      bits: float64 [tokens], what each token cost.
      positions: int32 [tokens], how many tokens of its window each is predicted from, less one.
    """

    lanes: list[bytes]
    bits: np.ndarray
    positions: np.ndarray


def encode_tokens(walker: Walker, tokens: np.ndarray, report: Report) -> Coded:
    """Codes tokens, cut into lanes.

    Args:
      walker: model and shape.
      tokens: int32 [n], all of them allowed (see `allowed_ids`).
      report: told of progress.
    """
    shape = walker.shape
    lengths = shape.lengths(len(tokens))
    rows = _rows(tokens, lengths, walker.lm.tokenizer.bos_id)
    shares = _Shares(shape.groups, report)
    groups = [_Known(part, shares) for part in np.split(rows, shape.groups)]
    walker.walk(rows.shape[1], groups)
    starts, freqs = map(np.concatenate, zip(*(one.intervals() for one in groups), strict=True))
    sums = checksums(rows, lengths)
    taken = np.arange(starts.shape[1]) < lengths[:, None]
    places = np.array([place.position for place in walker.places(starts.shape[1])], np.int32)
    return Coded(
        write_lanes(starts, freqs, lengths, sums),
        BITS - np.log2(freqs[taken].astype(np.float64)),
        np.broadcast_to(places, starts.shape)[taken],
    )


def decode_tokens(walker: Walker, lanes: Sequence[bytes], count: int, report: Report) -> np.ndarray:
    """The tokens, int32 [count], that `encode_tokens` coded as these lanes.

    Raises:
      UserError: a lane does not end as it should; it is named.
    """
    shape = walker.shape
    lengths = shape.lengths(count)
    steps, shares = int(lengths.max()), _Shares(shape.groups, report)
    filling, groups = walker.lm.tokenizer.bos_id, []
    LaneReader(lanes, lengths)  # names the lane that cannot be right
    for part in np.split(np.arange(shape.lanes), shape.groups):
        reader = LaneReader([lanes[lane] for lane in part], lengths[part])
        groups.append(_Sought(reader, lengths[part], steps, filling, shares))
    walker.walk(steps, groups)
    tokens = np.concatenate([one.tokens for one in groups])
    readers = zip(groups, np.split(checksums(tokens, lengths), shape.groups), strict=True)
    good = np.concatenate([one.reader.finished(sums) for one, sums in readers])
    if not good.all():
        lane = int(np.argmin(good))
        raise UserError(f"lane {lane}", "its checksum differs", "the archive or model is damaged")
    return tokens[np.arange(steps) < lengths[:, None]]


def canary(walker: Walker, windows: bool) -> str:
    """A hash of where fixed tokens lie among the integer frequencies, in every program of a walk.

    A start is the sum of the frequencies of all symbols before it, so little can differ unseen.

    Args:
      walker: model and shape.
      windows: whether a walk may come to a second window.
    """
    shape, ids = walker.shape, np.flatnonzero(np.asarray(walker.allowed))
    digest = hashlib.blake2b(repr((shape, windows, len(ids), BITS)).encode(), digest_size=16)

    def fixed(seed: int, width: int) -> np.ndarray:
        numbers = np.arange(seed, seed + shape.rows * width, dtype=np.uint64)
        mixed = (numbers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
        return ids[mixed % np.uint64(len(ids))].reshape(shape.rows, width).astype(np.int32)

    makers = [(partial(walker.empty, slots), slots) for slots in shape.caches]
    if windows:
        overlap = shape.context - shape.stride
        slots = next(slots for slots in shape.caches if slots > overlap)
        makers.append((partial(walker.primed, fixed(7, overlap), slots), slots))
    for make, slots in makers:
        cache = make()
        inputs, nothing = jnp.asarray(fixed(slots, 1)[:, 0]), np.zeros(shape.rows, np.uint32)
        for position in range(max(0, slots - 3), slots):
            symbols = fixed(slots + 1000 * position, 1)[:, 0]
            found, cache = walker.step(cache, inputs, position, symbols, nothing, False)
            inputs = found.symbol
            for part in found:
                digest.update(np.asarray(part).astype("<u4").tobytes())
    return digest.hexdigest()


def _rows(tokens: np.ndarray, lengths: np.ndarray, filling: int) -> np.ndarray:
    """Tokens as lanes, int32 [lanes, steps]."""
    steps = int(lengths.max())
    rows = np.full((len(lengths), steps), filling, np.int32)
    rows[np.arange(steps) < lengths[:, None]] = tokens
    return rows


class _Shares:
    """How far all groups are, told by each from a thread of its own."""

    def __init__(self, groups: int, report: Report):
        self._done = np.zeros(groups), np.zeros(groups)
        self._lock, self._named, self._report = Lock(), 0, report

    def one_more(self) -> Report:
        """What the next group tells."""
        self._named += 1
        return partial(self._tell, self._named - 1)

    def _tell(self, group: int, share: float, size: float) -> None:
        with self._lock:
            shares, sizes = self._done
            shares[group], sizes[group] = share, size
            self._report(float(shares.mean()), float(sizes.sum()))


class _Known:
    """The encoder's side: symbols are known, intervals are wanted."""

    def __init__(self, tokens: np.ndarray, shares: _Shares):
        self.tokens, self._report = tokens, shares.one_more()
        self._nothing = np.zeros(len(tokens), np.uint32)
        self._pending: list[Interval] = []
        self._found: list[Interval] = []
        self._bits = 0.0

    def ask(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        return self.tokens[:, step], self._nothing, False

    def tell(self, step: int, found: Interval) -> None:
        self._pending.append(found)
        if len(self._pending) >= AHEAD:
            self._read()
            self._report((step + 1) / self.tokens.shape[1], self._bits / 8)

    def taken(self, start: int, end: int) -> np.ndarray:
        return self.tokens[:, start:end]

    def intervals(self) -> tuple[np.ndarray, np.ndarray]:
        """Starts and frequencies, uint32 [lanes, steps]."""
        self._read()
        return tuple(  # type: ignore[return-value]
            np.array([getattr(found, name) for found in self._found], np.uint32)
            .reshape(-1, len(self.tokens))
            .T
            for name in ("start", "freq")
        )

    def _read(self) -> None:
        found = jax.device_get(self._pending)
        self._bits += sum(
            float(BITS - np.log2(np.maximum(one.freq, 1)).mean()) for one in found
        ) * (len(self.tokens))
        self._found += found
        self._pending.clear()


class _Sought:
    """The decoder's side: the reader says where symbols lie, the step finds them."""

    def __init__(
        self, reader: LaneReader, lengths: np.ndarray, steps: int, filling: int, shares: _Shares
    ):
        self.reader, self._lengths, self._report = reader, lengths, shares.one_more()
        self._filling = np.full(len(lengths), filling, np.int32)
        self.tokens = np.full((len(lengths), steps), filling, np.int32)

    def ask(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        # Lanes that are a token shorter find some symbol in the last step; nothing follows it.
        return self._filling, self.reader.targets, True

    def tell(self, step: int, found: Interval) -> None:
        symbols, starts, freqs = jax.device_get(tuple(found))
        self.reader.advance(starts, freqs)
        active = step < self._lengths
        self.tokens[active, step] = symbols[active]
        if step % AHEAD == AHEAD - 1:
            self._report((step + 1) / self.tokens.shape[1], 0.0)

    def taken(self, start: int, end: int) -> np.ndarray:
        return self.tokens[:, start:end]
