"""Continues rows of tokens with a key-value cache, a few steps at each call of the device.

A prompt of n tokens fills the cache with its first n - 1 in one call (lengths rounded up to powers
of two); then one compiled step takes each row's latest token and chooses the next. Each row has its
own position, so that rows of any lengths go together.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from llmjax.data import Tokenizer
from llmjax.decoding.config import DecodingConfig
from llmjax.decoding.sampling import Sampling, choose
from llmjax.mesh import axis_size, place, reshard, use_mesh
from llmjax.model import Cache, Model, Params

STEPS_PER_CALL = 4  # enough to hide what a call costs, few enough for text to flow


class Row(NamedTuple):
    """A prompt to continue.

    Attributes:
      prompt: tokens, at least one (BOS where there is no text).
      limit: how many tokens to write, at least one.
      name: two numbers below 2^32; with the seed they decide the row's random keys.
    """

    prompt: Sequence[int]
    limit: int
    name: tuple[int, int] = (0, 0)


class Written(NamedTuple):
    """What one call wrote.

    Attributes:
      tokens: int32 [rows, steps], -1 once a row is done.
      nats: float32 [rows, steps], under the model's own distribution, whatever the sampling.
    """

    tokens: np.ndarray
    nats: np.ndarray


class Rules(NamedTuple):
    """What decides the next token, beside its row.

    Attributes:
      sampling: the filters.
      seed: uint32.
      eos_id: int32; ends a row.
      vocab_size: int32; rows of the embedding from here on are padding, never chosen.
    """

    sampling: Sampling
    seed: Array | np.uint32
    eos_id: Array | np.int32
    vocab_size: Array | np.int32


class State(NamedTuple):
    """Between two steps, on the device.

    Attributes:
      cache: keys and values of all tokens but the latest.
      tokens: int32 [B], each row's latest token.
      positions: int32 [B], where it stands.
      left: int32 [B], tokens still to write; 0 where the row is done.
      names: uint32 [B, 2], see Row.
      seen: bool [B, V], tokens so far, for the repetition penalty; None without it.
    """

    cache: Cache
    tokens: Array
    positions: Array
    left: Array
    names: Array
    seen: Array | None


def generate_tokens(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    config: DecodingConfig,
    *,
    tokenizer: Tokenizer,
    mesh: Mesh | None = None,
) -> Iterator[Written]:
    """Continues the rows until each has met its limit or EOS; yields a few steps at a time.

    The caller may stop before the end. What a row becomes does not depend on the rows beside it
    (except that a batch of another shape is another program, whose sums may round otherwise).
    """
    state = start(
        model,
        params,
        rows,
        bos_id=tokenizer.bos_id,
        mesh=mesh,
        remember=config.repetition_penalty is not None,
    )
    rules = Rules(
        sampling=sampling_of(config),
        seed=np.uint32(config.seed % 2**32),
        eos_id=np.int32(tokenizer.eos_id),
        vocab_size=np.int32(tokenizer.vocab_size),
    )
    pending = None
    for _ in range(-(-max(row.limit for row in rows) // STEPS_PER_CALL)):
        with use_mesh(mesh):
            state, running = _steps(model, params, state, rules)
        # The host reads a call's tokens while the next call is under way.
        if pending is not None:
            written = _read(pending, len(rows))
            yield written
            if (written.tokens[:, -1] < 0).all():
                return
        pending = running
    if pending is not None:
        yield _read(pending, len(rows))


def start(
    model: Model,
    params: Params,
    rows: Sequence[Row],
    *,
    bos_id: int,
    mesh: Mesh | None,
    remember: bool = False,
) -> State:
    """Fills the cache with the prompts, or where there is an encoder, with what it makes of them.

    A decoder goes on from its prompt; an encoder-decoder writes from BOS on. The batch is rounded
    up to a power of two that the mesh divides, with rows that are done from the start.
    """
    padding = bucket(len(rows), 1 if mesh is None else axis_size(mesh, "batch")) - len(rows)
    rows = [*rows, *[Row([bos_id], 0)] * padding]
    encodes = model.config.num_encoder_layers > 0
    heads = [[bos_id] if encodes else row.prompt for row in rows]
    lengths = np.array([len(head) for head in heads], np.int32)
    limits = np.array([row.limit for row in rows], np.int32)
    longest = int((lengths + limits).max()) - 1
    slots = max(longest, min(bucket(longest), model.config.max_length))
    if encodes:
        sources = padded([row.prompt for row in rows])
        segments = padded([[1] * len(row.prompt) for row in rows])
        texts = [place(array, mesh, "batch", None) for array in (sources, segments)]
        with use_mesh(mesh):
            cache = _encode(model, params, *texts, slots=slots)
    else:
        text = place(padded([head[:-1] for head in heads])[:, :slots], mesh, "batch", None)
        with use_mesh(mesh):
            cache = _prefill(model, params, text, slots=slots)
    seen = _occurrences(heads, model.config.vocab_size) if remember else None
    return State(
        cache=cache,
        tokens=place(np.array([head[-1] for head in heads], np.int32), mesh, "batch"),
        positions=place(lengths - 1, mesh, "batch"),
        left=place(limits, mesh, "batch"),
        names=place(np.array([row.name for row in rows], np.uint32), mesh, "batch", None),
        seen=None if seen is None else place(seen, mesh, "batch", None),
    )


def sampling_of(config: DecodingConfig) -> Sampling:
    """The config's filters as arrays; None where they are off."""

    def scalar(value: float | None, dtype: type) -> Array | None:
        return None if value is None else jnp.asarray(value, dtype)

    return Sampling(
        temperature=scalar(config.temperature or None, jnp.float32),
        top_k=scalar(config.top_k, jnp.int32),
        top_p=scalar(config.top_p, jnp.float32),
        min_p=scalar(config.min_p, jnp.float32),
        repetition_penalty=scalar(config.repetition_penalty, jnp.float32),
    )


def bucket(size: int, least: int = 16) -> int:
    """The first of least, 2 least, 4 least, ... that is no smaller: few shapes, few programs."""
    while least < size:
        least *= 2
    return least


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of tokens as int32 [rows, length], zeros at the right; the length is bucketed."""
    array = np.zeros((len(rows), bucket(max(map(len, rows)))), np.int32)
    for line, row in zip(array, rows, strict=True):
        line[: len(row)] = row
    return array


def _occurrences(rows: Sequence[Sequence[int]], vocab_size: int) -> np.ndarray:
    seen = np.zeros((len(rows), vocab_size), np.bool_)
    for line, row in zip(seen, rows, strict=True):
        line[list(row)] = True
    return seen


@partial(jax.jit, static_argnames=("model", "slots"))
def _prefill(model: Model, params: Params, tokens: Array, *, slots: int) -> Cache:
    # The logits are not used, so the compiler leaves them out. What padding writes lies behind a
    # row's own tokens, and is overwritten before it is ever attended to.
    cache = model.init_cache(tokens.shape[0], slots)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    return model.decode(params, tokens, reshard(positions, "batch", None), cache)[1]


@partial(jax.jit, static_argnames=("model", "slots"))
def _encode(model: Model, params: Params, tokens: Array, segments: Array, *, slots: int) -> Cache:
    encoded = model.encode(params, tokens, segments)
    return model.init_cache(
        tokens.shape[0], slots, encoded=encoded, encoder_segments=segments, params=params
    )


@partial(jax.jit, static_argnames="model", donate_argnames="state")
def _steps(
    model: Model, params: Params, state: State, rules: Rules
) -> tuple[State, tuple[Array, Array]]:
    """STEPS_PER_CALL steps; the tokens and nats, [steps, B], are whole on every process."""

    def step(state: State, _: None) -> tuple[State, tuple[Array, Array]]:
        return _step(model, params, state, rules)

    state, (tokens, nats) = lax.scan(step, state, length=STEPS_PER_CALL)
    return state, (reshard(tokens, None, None), reshard(nats, None, None))


def _step(
    model: Model, params: Params, state: State, rules: Rules
) -> tuple[State, tuple[Array, Array]]:
    logits, cache = model.decode(
        params, state.tokens[:, None], state.positions[:, None], state.cache
    )
    logits = reshard(logits[:, 0], "batch", None)
    keys = jax.vmap(_key, (None, 0, 0))(rules.seed, state.names, state.positions)
    vocabulary = jnp.arange(logits.shape[-1])
    allowed = jnp.where(vocabulary < rules.vocab_size, logits, -jnp.inf)
    chosen = choose(allowed, rules.sampling, keys, state.seen)
    is_chosen = vocabulary == chosen[:, None]
    nats = jax.nn.logsumexp(logits, axis=-1) - jnp.sum(jnp.where(is_chosen, logits, 0), axis=-1)
    writing = state.left > 0
    left = jnp.where(writing & (chosen != rules.eos_id), state.left - 1, 0)
    after = State(
        cache=cache,
        tokens=chosen,
        positions=state.positions + (left > 0),
        left=left,
        names=state.names,
        seen=None if state.seen is None else state.seen | is_chosen,
    )
    return after, (jnp.where(writing, chosen, -1), nats)


def _key(seed: Array, name: Array, position: Array) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), name[0])
    return jax.random.fold_in(jax.random.fold_in(key, name[1]), position)


def _read(running: tuple[Array, Array], rows: int) -> Written:
    tokens, nats = (np.asarray(array).T[:rows] for array in running)
    return Written(tokens, nats)
