"""The model as a coder: compiled steps from tokens to integer intervals, the same both ways.

Streams are contiguous parts of one sequence of tokens and advance together, one token per step.
Windows are those of `llmjax.scoring`: a stream's first tokens follow BOS; once the context is full,
a new window starts `stride` tokens further on, whose first context - stride tokens are read again.

Floating-point sums depend on the program that computes them, so each shape has one program for both
directions: a step takes each stream's symbol where it is given and finds it where it is not, as an
argument says. Which shapes come when depends on the number of steps alone.

Each allowed symbol gets floor(p x (total - V)(1 - MARGIN)) + 1 of `total` numbers, V being how many
symbols are allowed, and the most probable one the remainder. The margin is more than p can exceed
its true sum by in float32, so that there is a remainder. Symbols are ordered by id, in blocks: only
the block sums, and the frequencies of the one block that matters, are ever added up.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llmjax.compression.rans import BITS
from llmjax.inference.language_model import LanguageModel
from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params

BLOCK = 256
TOTAL = 1 << BITS
MARGIN = 2.0**-10

MAX_STREAMS = 1 << 16

CACHES = 3
"""Cache sizes of a window: a step reads all slots, so starting with few is faster."""


class Interval(NamedTuple):
    """The interval of one symbol per stream: all [B].

    Attributes:
      symbol: int32.
      start: uint32, the sum of the frequencies of the symbols before it.
      freq: uint32, at least 1 where the symbol is allowed.
    """

    symbol: Array
    start: Array
    freq: Array


def frequencies(logits: Array, allowed: Array) -> Array:
    """Integer frequencies, uint32 [B, V], that sum to TOTAL.

    Args:
      logits: float32 [B, V]; in a row with a NaN all symbols but one get the same.
      allowed: bool [V]; the others get none.
    """
    masked = jnp.where(allowed, logits, -jnp.inf)
    exp_scores = jnp.exp(masked - masked.max(-1, keepdims=True))
    share = exp_scores / exp_scores.sum(-1, keepdims=True)
    share = jnp.where(share <= 1, share, 0.0)  # false for a NaN
    scale = (TOTAL - allowed.sum()).astype(jnp.float32) * (1 - MARGIN)
    counts = jnp.where(allowed, jnp.floor(share * scale).astype(jnp.uint32) + 1, jnp.uint32(0))
    left = jnp.uint32(TOTAL) - counts.sum(-1, dtype=jnp.uint32)
    best = jnp.argmax(masked, axis=-1)
    return counts + jnp.where(jnp.arange(logits.shape[-1]) == best[:, None], left[:, None], 0)


def locate(counts: Array, symbols: Array, targets: Array, seek: Array) -> Interval:
    """The intervals of the given symbols, or those that contain the targets.

    Args:
      counts: uint32 [B, V], from `frequencies`.
      symbols: int32 [B], read where `seek` is false.
      targets: uint32 [B], numbers below TOTAL, read where `seek` is true.
      seek: bool [].
    """
    rows, vocab = counts.shape
    blocks = jnp.pad(counts, ((0, 0), (0, -vocab % BLOCK))).reshape(rows, -1, BLOCK)
    ends = jnp.cumsum(blocks.sum(-1, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)
    found = (ends <= targets[:, None]).sum(-1, dtype=jnp.int32)
    block = jnp.where(seek, jnp.minimum(found, blocks.shape[1] - 1), symbols // BLOCK)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    before = jnp.where(jnp.arange(blocks.shape[1]) == block[:, None] - 1, ends, 0)
    before = before.sum(-1, dtype=jnp.uint32)[:, None]
    upto = before + jnp.cumsum(inside, axis=-1, dtype=jnp.uint32)
    found = (upto <= targets[:, None]).sum(-1, dtype=jnp.int32)
    place = jnp.where(seek, jnp.minimum(found, BLOCK - 1), symbols % BLOCK)[:, None]
    freq = jnp.take_along_axis(inside, place, axis=1)[:, 0]
    start = jnp.take_along_axis(upto, place, axis=1)[:, 0] - freq
    return Interval(block * BLOCK + place[:, 0], start, freq)


def allowed_ids(lm: LanguageModel) -> np.ndarray:
    """bool [V]: the ids that text may consist of, which are those that stand for bytes."""
    allowed = np.zeros(lm.model.config.vocab_size, np.bool_)
    allowed[: lm.tokenizer.vocab_size] = lm.tokenizer.token_bytes()[: len(allowed)] > 0
    return allowed


@dataclass(frozen=True)
class StreamLayout:
    """What decides which programs run.

    Attributes:
      streams: sequences side by side.
      context: tokens of a window.
      stride: tokens from one window to the next, from 1 to context.
      groups: equal parts of the streams, each with a thread of its own.
    """

    streams: int
    context: int
    stride: int
    groups: int = 1

    @property
    def valid(self) -> bool:
        """Whether an archive can have it."""
        fits = 1 <= self.streams <= MAX_STREAMS and self.context >= 1
        return fits and 1 <= self.groups <= self.streams and self.streams % self.groups == 0

    @property
    def rows(self) -> int:
        """Streams of a group: rows of the programs."""
        return self.streams // self.groups

    @property
    def caches(self) -> tuple[int, ...]:
        """Slots of the caches that a window uses in turn, the last one a full context."""
        return tuple(sorted({-(-self.context // 2**halvings) for halvings in range(CACHES)}))

    def lengths(self, tokens: int) -> np.ndarray:
        """int64 [streams]: tokens of each stream, as equal as possible, longer ones first."""
        return (tokens + np.arange(self.streams)[::-1]) // self.streams


class GroupCoder(Protocol):
    """One direction of coding for a group of streams, called step by step."""

    def query(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Symbols int32 [rows], targets uint32 [rows], and whether to seek the targets."""

    def receive(self, step: int, interval: Interval) -> None:
        """Takes the intervals of this step, still on the device."""

    def history(self, start: int, end: int) -> np.ndarray:
        """int32 [rows, end - start]: tokens of the steps from start to end, all received."""


class StepPosition(NamedTuple):
    """Where a step is in its window."""

    position: int
    slots: int
    starts_window: bool


class CodecStepper:
    """A model that advances streams of one layout token by token."""

    def __init__(self, lm: LanguageModel, layout: StreamLayout):
        self.lm, self.layout = lm, layout
        self.allowed = jnp.asarray(allowed_ids(lm))

    def run(self, steps: int, groups: Sequence[GroupCoder]) -> None:
        """Takes `steps` steps from the beginning, all groups at once: one keeps few cores busy.

        Args:
          steps: tokens of the longest stream.
          groups: what gives symbols or targets of each group, and gets the intervals.
        """
        stop = Event()
        with ThreadPoolExecutor(len(groups)) as threads:
            runs = [threads.submit(self._run, steps, group, stop) for group in groups]
            try:
                for future in runs:
                    future.result()
            finally:  # an interrupt, or a failure in one group, does not wait for the others
                stop.set()

    def _run(self, steps: int, group: GroupCoder, stop: Event) -> None:
        first = np.full(self.layout.rows, self.lm.tokenizer.bos_id, np.int32)
        cache, inputs = None, jnp.asarray(first)
        for step, place in enumerate(self.positions(steps)):
            if stop.is_set():
                return
            if place.starts_window:
                overlap = self.layout.context - self.layout.stride
                past = group.history(step - overlap - 1, step)
                inputs = jnp.asarray(past[:, -1])
                cache = self.prefilled(past[:, :-1], place.slots)
            elif cache is None:
                cache = self.empty(place.slots)
            elif cache.length != place.slots:
                cache = _grow(cache, place.slots)
            interval, cache = self.step(cache, inputs, place.position, *group.query(step))
            inputs = interval.symbol
            group.receive(step, interval)

    def step(
        self,
        cache: Cache,
        inputs: Array,
        position: int,
        symbols: np.ndarray,
        targets: np.ndarray,
        seek: bool,
    ) -> tuple[Interval, Cache]:
        """One step of every stream of a group.

        Args:
          cache: of the tokens before; it is donated.
          inputs: int32 [rows], at `position` of their window.
          symbols, targets, seek: see `locate`.
        """
        return _step(
            self.lm.model,
            self.lm.params,
            cache,
            (inputs, np.int32(position)),
            self.allowed,
            (symbols, targets, np.bool_(seek)),
        )

    def empty(self, slots: int) -> Cache:
        """A cache that has read nothing."""
        return _empty(self.lm.model, self.layout.rows, slots)

    def prefilled(self, tokens: np.ndarray, slots: int) -> Cache:
        """A cache that has read tokens int32 [rows, context - stride]."""
        if not tokens.shape[1]:
            return self.empty(slots)
        return _prefill(self.lm.model, self.lm.params, jnp.asarray(tokens), slots=slots)

    def positions(self, steps: int) -> Iterator[StepPosition]:
        """Where each of the first `steps` steps is in its window."""
        context, stride, caches = self.layout.context, self.layout.stride, self.layout.caches
        for step in range(steps):
            late = step - context
            starts_window = late >= 0 and late % stride == 0
            position = step if late < 0 else context - stride + late % stride
            slots = next(size for size in caches if size > position)
            yield StepPosition(position, slots, starts_window)


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _step(
    model: Model,
    params: Params,
    cache: Cache,
    read: tuple[Array, Array],
    allowed: Array,
    wanted: tuple[Array, Array, Array],
) -> tuple[Interval, Cache]:
    """Reads one token of each stream, and locates the next."""
    inputs, position = read
    positions = jnp.broadcast_to(position, inputs.shape)[:, None]
    logits, cache = model.decode(params, inputs[:, None], positions, cache)
    return locate(frequencies(logits[:, 0], allowed), *wanted), cache


@partial(jax.jit, static_argnames=("model", "slots"))
def _prefill(model: Model, params: Params, tokens: Array, *, slots: int) -> Cache:
    return model.prefill(params, tokens, slots)


@partial(jax.jit, static_argnames=("model", "rows", "slots"))
def _empty(model: Model, rows: int, slots: int) -> Cache:
    return model.init_cache(rows, slots)


@partial(jax.jit, static_argnames="slots")
def _grow(cache: Cache, slots: int) -> Cache:
    return cache.grown(slots)
