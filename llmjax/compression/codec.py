"""The model as a coder: compiled steps from tokens to integer intervals, shared by both directions.

Streams are contiguous parts of one token sequence and advance together, one token per step.
Windows are those of `llmjax.scoring`: a stream's first tokens follow BOS; once the context is full,
the next window starts `stride` tokens later and rereads the last context - stride tokens.

Floating-point sums depend on the program that computes them, so encoder and decoder run the same
program for each shape: an argument says whether a step is given each stream's symbol or searches
for it. The sequence of shapes depends on the number of steps alone.

Each of the V allowed symbols gets a frequency of floor(p x (TOTAL - V)(1 - MARGIN)) + 1; the most
probable one also gets the remainder. MARGIN exceeds the float32 error of the sum of all p, so the
remainder is never negative. Symbols are ordered by id, in blocks: only the block sums and the
frequencies of the selected block are accumulated.
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
"""Cache sizes used within a window: a step reads every slot, so small caches are faster."""


class Interval(NamedTuple):
    """The interval of one symbol per stream, each field [B].

    Attributes:
      symbol: int32.
      start: uint32, the sum of the frequencies of the symbols before it.
      freq: uint32, at least 1 where the symbol is allowed.
    """

    symbol: Array
    start: Array
    freq: Array


def frequencies(logits: Array, allowed: Array) -> Array:
    """Returns integer frequencies, uint32 [B, V], that sum to TOTAL.

    Args:
      logits: float32 [B, V]; in a row with a NaN all symbols but one get the same frequency.
      allowed: bool [V]; other symbols get frequency 0.
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
    """Returns the intervals of the given symbols, or the intervals that contain the targets.

    Args:
      counts: uint32 [B, V], from `frequencies`.
      symbols: int32 [B], used if `seek` is false.
      targets: uint32 [B], numbers below TOTAL, used if `seek` is true.
      seek: bool [].
    """
    rows, vocab = counts.shape
    blocks = jnp.pad(counts, ((0, 0), (0, -vocab % BLOCK))).reshape(rows, -1, BLOCK)
    ends = jnp.cumsum(blocks.sum(-1, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)
    target_block = (ends <= targets[:, None]).sum(-1, dtype=jnp.int32)
    block = jnp.where(seek, jnp.minimum(target_block, blocks.shape[1] - 1), symbols // BLOCK)
    block_counts = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    before = jnp.where(jnp.arange(blocks.shape[1]) == block[:, None] - 1, ends, 0)
    before = before.sum(-1, dtype=jnp.uint32)[:, None]
    cumulative = before + jnp.cumsum(block_counts, axis=-1, dtype=jnp.uint32)
    target_offset = (cumulative <= targets[:, None]).sum(-1, dtype=jnp.int32)
    offset = jnp.where(seek, jnp.minimum(target_offset, BLOCK - 1), symbols % BLOCK)[:, None]
    freq = jnp.take_along_axis(block_counts, offset, axis=1)[:, 0]
    start = jnp.take_along_axis(cumulative, offset, axis=1)[:, 0] - freq
    return Interval(block * BLOCK + offset[:, 0], start, freq)


def allowed_ids(lm: LanguageModel) -> np.ndarray:
    """Returns bool [V]: which token ids can occur in text, because they stand for bytes."""
    allowed = np.zeros(lm.model.config.vocab_size, np.bool_)
    allowed[: lm.tokenizer.vocab_size] = lm.tokenizer.token_bytes()[: len(allowed)] > 0
    return allowed


@dataclass(frozen=True)
class StreamLayout:
    """The shapes of the compiled programs.

    Attributes:
      streams: number of parallel sequences.
      context: tokens per window.
      stride: tokens from one window to the next, from 1 to context.
      groups: number of equal groups of streams, each run in its own thread.
    """

    streams: int
    context: int
    stride: int
    groups: int = 1

    @property
    def valid(self) -> bool:
        """Whether an archive may use this layout."""
        in_range = 1 <= self.streams <= MAX_STREAMS and self.context >= 1
        return in_range and 1 <= self.groups <= self.streams and self.streams % self.groups == 0

    @property
    def rows(self) -> int:
        """Streams per group: the batch size of the programs."""
        return self.streams // self.groups

    @property
    def caches(self) -> tuple[int, ...]:
        """Cache sizes that a window grows through, in slots; the last is a full context."""
        return tuple(sorted({-(-self.context // 2**halvings) for halvings in range(CACHES)}))

    def lengths(self, tokens: int) -> np.ndarray:
        """Returns int64 [streams]: tokens per stream, as equal as possible, longer ones first."""
        return (tokens + np.arange(self.streams)[::-1]) // self.streams


class GroupCoder(Protocol):
    """Encodes or decodes a group of streams, called once per step."""

    def query(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns symbols int32 [rows], targets uint32 [rows], and whether to seek the targets."""

    def receive(self, step: int, interval: Interval) -> None:
        """Takes the intervals of this step, still on the device."""

    def history(self, start: int, end: int) -> np.ndarray:
        """Returns int32 [rows, end - start]: the tokens of steps already received."""


class StepPosition(NamedTuple):
    """A step's position in its window."""

    position: int
    slots: int
    starts_window: bool


class CodecStepper:
    """Advances the streams of a layout token by token."""

    def __init__(self, lm: LanguageModel, layout: StreamLayout):
        self.lm, self.layout = lm, layout
        self.allowed = jnp.asarray(allowed_ids(lm))

    def run(self, steps: int, groups: Sequence[GroupCoder]) -> None:
        """Runs all groups for `steps` steps, in parallel: one group keeps few cores busy.

        Args:
          steps: tokens of the longest stream.
          groups: the coder of each group.
        """
        stop = Event()
        with ThreadPoolExecutor(len(groups)) as threads:
            runs = [threads.submit(self._run, steps, group, stop) for group in groups]
            try:
                for future in runs:
                    future.result()
            finally:  # after an interrupt or a failure, do not wait for the other groups
                stop.set()

    def _run(self, steps: int, group: GroupCoder, stop: Event) -> None:
        first = np.full(self.layout.rows, self.lm.tokenizer.bos_id, np.int32)
        cache, inputs = None, jnp.asarray(first)
        for step, (position, slots, starts_window) in enumerate(self.positions(steps)):
            if stop.is_set():
                return
            if starts_window:
                overlap = self.layout.context - self.layout.stride
                past = group.history(step - overlap - 1, step)
                inputs = jnp.asarray(past[:, -1])
                cache = self.prefilled(past[:, :-1], slots)
            elif cache is None:
                cache = self.empty(slots)
            elif cache.length != slots:
                cache = _grow(cache, slots)
            interval, cache = self.step(cache, inputs, position, *group.query(step))
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
        """Advances each stream of a group by one token.

        Args:
          cache: of the preceding tokens; donated.
          inputs: int32 [rows], the tokens at `position` of their window.
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
        """Returns an empty cache."""
        return _empty(self.lm.model, self.layout.rows, slots, self.layout.context)

    def prefilled(self, tokens: np.ndarray, slots: int) -> Cache:
        """Returns a cache filled with tokens int32 [rows, context - stride]."""
        if not tokens.shape[1]:
            return self.empty(slots)
        sizes = {"slots": slots, "context": self.layout.context}
        return _prefill(self.lm.model, self.lm.params, jnp.asarray(tokens), **sizes)

    def positions(self, steps: int) -> Iterator[StepPosition]:
        """Yields the window position of each of the first `steps` steps."""
        context, stride, caches = self.layout.context, self.layout.stride, self.layout.caches
        for step in range(steps):
            beyond = step - context
            starts_window = beyond >= 0 and beyond % stride == 0
            position = step if beyond < 0 else context - stride + beyond % stride
            slots = next(size for size in caches if size > position)
            yield StepPosition(position, slots, starts_window)


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _step(
    model: Model,
    params: Params,
    cache: Cache,
    inputs_and_position: tuple[Array, Array],
    allowed: Array,
    query: tuple[Array, Array, Array],
) -> tuple[Interval, Cache]:
    """Reads one token of each stream and locates the next."""
    inputs, position = inputs_and_position
    positions = jnp.broadcast_to(position, inputs.shape)[:, None]
    logits, cache = model.decode(params, inputs[:, None], positions, cache)
    return locate(frequencies(logits[:, 0], allowed), *query), cache


@partial(jax.jit, static_argnames=("model", "slots", "context"))
def _prefill(model: Model, params: Params, tokens: Array, *, slots: int, context: int) -> Cache:
    return model.prefill(params, tokens, slots, jnp.full(len(tokens), context))


@partial(jax.jit, static_argnames=("model", "rows", "slots", "context"))
def _empty(model: Model, rows: int, slots: int, context: int) -> Cache:
    return model.init_cache(rows, slots, text_lengths=jnp.full(rows, context))


@partial(jax.jit, static_argnames="slots")
def _grow(cache: Cache, slots: int) -> Cache:
    return cache.grown(slots)
