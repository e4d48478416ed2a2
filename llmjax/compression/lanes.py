"""The compiled programs that encoder and decoder share, and the walk along the lanes.

Lanes are contiguous parts of one sequence of tokens, and take a step at the same time. Windows are
those of `llmjax.scoring`: a lane's first tokens follow BOS; once the context is full, the lane goes
on in a new window, `stride` tokens further on, whose first context - stride tokens are read again.

Sums of floating-point numbers depend on the program that adds them up, so there is one program of
each shape for both directions: a step takes each lane's symbol where it is known and finds it where
it is not, as an argument says. Which shapes come when depends on the number of steps alone.
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

from llmjax.compression.intervals import Interval, frequencies, locate
from llmjax.compression.room import check_room
from llmjax.inference.language_model import LanguageModel
from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params

MOST_LANES = 1 << 16

CACHES = 3
"""Sizes of cache that a window goes through: a step reads all slots, so few at first is faster."""


@dataclass(frozen=True)
class Shape:
    """What decides which programs run.

    Attributes:
      lanes: sequences side by side.
      context: tokens of a window.
      stride: tokens from one window to the next, from 1 to context.
      groups: parts of the lanes, as large as each other, that are walked in threads of their own.
    """

    lanes: int
    context: int
    stride: int
    groups: int = 1

    @property
    def possible(self) -> bool:
        """Whether an archive can have it."""
        fits = 1 <= self.lanes <= MOST_LANES and self.context >= 1
        return fits and 1 <= self.groups <= self.lanes and self.lanes % self.groups == 0

    @property
    def rows(self) -> int:
        """Lanes of a group: rows of the programs."""
        return self.lanes // self.groups

    @property
    def caches(self) -> tuple[int, ...]:
        """Slots of the caches that a window goes through, the last one a whole context."""
        return tuple(sorted({-(-self.context // 2**halvings) for halvings in range(CACHES)}))

    def lengths(self, tokens: int) -> np.ndarray:
        """int64 [lanes]: tokens of each lane, as equal as can be, the longer ones first."""
        return (tokens + np.arange(self.lanes)[::-1]) // self.lanes


class Symbols(Protocol):
    """What a group's walk asks for and tells, step by step."""

    def ask(self, step: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """Known symbols int32 [rows], targets uint32 [rows], and whether to seek these."""

    def tell(self, step: int, found: Interval) -> None:
        """The intervals of this step, still on the device."""

    def taken(self, start: int, end: int) -> np.ndarray:
        """int32 [rows, end - start]: tokens of the steps from start to end, all told by now."""


class Place(NamedTuple):
    """Where a step is in its window."""

    position: int
    slots: int
    primes: bool


class Walker:
    """A model, ready to walk along lanes of one shape."""

    def __init__(self, lm: LanguageModel, shape: Shape):
        """Raises:
        UserError: the device has no room for so many lanes.
        """
        check_room(lm.model.config, shape.lanes, shape.context)
        self.lm, self.shape = lm, shape
        self.allowed = jnp.asarray(allowed_ids(lm))

    def walk(self, steps: int, groups: Sequence[Symbols]) -> None:
        """Takes `steps` steps from the lanes' beginning, all groups at the same time: a step of one
        keeps few cores busy.

        Args:
          steps: tokens of the longest lane.
          groups: of each, what gives symbols or targets, and gets the intervals.
        """
        stop = Event()
        with ThreadPoolExecutor(len(groups)) as threads:
            walks = [threads.submit(self._walk, steps, symbols, stop) for symbols in groups]
            try:
                for walk in walks:
                    walk.result()
            finally:  # what is interrupted, or fails in one group, does not wait for the others
                stop.set()

    def _walk(self, steps: int, symbols: Symbols, stop: Event) -> None:
        first = np.full(self.shape.rows, self.lm.tokenizer.bos_id, np.int32)
        cache, inputs = None, jnp.asarray(first)
        for step, place in enumerate(self.places(steps)):
            if stop.is_set():
                return
            if place.primes:
                overlap = self.shape.context - self.shape.stride
                past = symbols.taken(step - overlap - 1, step)
                inputs = jnp.asarray(past[:, -1])
                cache = self.primed(past[:, :-1], place.slots)
            elif cache is None:
                cache = self.empty(place.slots)
            elif cache.length != place.slots:
                cache = _grown(cache, place.slots)
            found, cache = self.step(cache, inputs, place.position, *symbols.ask(step))
            inputs = found.symbol
            symbols.tell(step, found)

    def step(
        self,
        cache: Cache,
        inputs: Array,
        position: int,
        known: np.ndarray,
        targets: np.ndarray,
        seek: bool,
    ) -> tuple[Interval, Cache]:
        """One step of every lane of a group.

        Args:
          cache: of the tokens before; it is used up.
          inputs: int32 [rows], at `position` of their window.
          known, targets, seek: see `locate`.
        """
        return _step(
            self.lm.model,
            self.lm.params,
            cache,
            (inputs, np.int32(position)),
            self.allowed,
            (known, targets, np.bool_(seek)),
        )

    def empty(self, slots: int) -> Cache:
        """A cache that has read nothing."""
        return _empty(self.lm.model, self.shape.rows, slots)

    def places(self, steps: int) -> Iterator[Place]:
        """Where each of the first `steps` steps is in its window."""
        context, stride, caches = self.shape.context, self.shape.stride, self.shape.caches
        for step in range(steps):
            late = step - context
            primes = late >= 0 and late % stride == 0
            position = step if late < 0 else context - stride + late % stride
            slots = next(size for size in caches if size > position)
            yield Place(position, slots, primes)

    def primed(self, tokens: np.ndarray, slots: int) -> Cache:
        """A cache that has read tokens int32 [rows, context - stride]."""
        if not tokens.shape[1]:
            return self.empty(slots)
        return _prime(self.lm.model, self.lm.params, jnp.asarray(tokens), slots=slots)


def allowed_ids(lm: LanguageModel) -> np.ndarray:
    """bool [V]: the ids that text may consist of: those of the tokenizer that stand for bytes."""
    allowed = np.zeros(lm.model.config.vocab_size, np.bool_)
    allowed[: lm.tokenizer.vocab_size] = lm.tokenizer.token_bytes()[: len(allowed)] > 0
    return allowed


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _step(
    model: Model,
    params: Params,
    cache: Cache,
    read: tuple[Array, Array],
    allowed: Array,
    wanted: tuple[Array, Array, Array],
) -> tuple[Interval, Cache]:
    """Reads one token of each lane, and places or finds the next."""
    inputs, position = read
    positions = jnp.broadcast_to(position, inputs.shape)[:, None]
    logits, cache = model.decode(params, inputs[:, None], positions, cache)
    return locate(frequencies(logits[:, 0], allowed), *wanted), cache


@partial(jax.jit, static_argnames=("model", "slots"))
def _prime(model: Model, params: Params, tokens: Array, *, slots: int) -> Cache:
    return model.prefill(params, tokens, slots)


@partial(jax.jit, static_argnames=("model", "rows", "slots"))
def _empty(model: Model, rows: int, slots: int) -> Cache:
    return model.init_cache(rows, slots)


@partial(jax.jit, static_argnames="slots")
def _grown(cache: Cache, slots: int) -> Cache:
    """The same cache with room for more."""
    return cache.grown(slots)
