"""What runs on the devices: pure functions of the cache, compiled once for each of its shapes.

The cache is one array per layer, a row per request. Its rows and its length are powers of two and
grow and shrink with use, so at most log2(rows) x log2(context) programs decode. Pages would follow
use more closely, but XLA reads contiguous rows in place, and would copy pages together first.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from llmjax.engine.sampling import Chosen, RowSampling, choose_rows
from llmjax.model.cache import Arrays, Cache
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel import mesh


class Batch(NamedTuple):
    """What lives on the devices.

    Attributes:
      cache: of B rows and S positions.
      history: int32 [B, S], the tokens at the positions.
    """

    cache: Cache
    history: Array


class Rows(NamedTuple):
    """What the host knows of B rows.

    Attributes:
      tokens: int32 [B], each row's last token, which the cache lacks.
      positions: int32 [B], its position.
      remaining: int32 [B], tokens still to generate; 0 in an empty row, whose results mean nothing.
      prompt_lengths: int32 [B].
      stop_ids: int32 [B, E]; -1 fills.
      sampling: how to choose tokens.
    """

    tokens: Array
    positions: Array
    remaining: Array
    prompt_lengths: Array
    stop_ids: Array
    sampling: RowSampling


@partial(jax.jit, static_argnames=("model", "slots"))
def empty_cache(model: Model, text_lengths: Array, *, slots: int) -> Cache:
    """The cache of a prompt to be read; `text_lengths` [P] as in `Model.init_cache`."""
    return model.init_cache(text_lengths.shape[0], slots, text_lengths=text_lengths)


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def read_chunk(model: Model, params: Params, tokens: Array, start: Array, cache: Cache) -> Cache:
    """Read tokens [P, C], the first of which has position `start`; padding may follow them."""
    positions = start + jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    positions = mesh.reshard(positions, "batch", None)
    only = jnp.zeros(tokens.shape[0], jnp.int32)
    return model.decode(params, tokens, positions, cache, only=only)[1]


@partial(jax.jit, static_argnames=("slots", "source"))
def resized(cache: Cache, rows: Array, *, slots: int, source: int = 0) -> Cache:
    """Copy `rows` [R] to a cache of `slots` positions, and `source` of the encoder's output."""

    def fit(arrays: Arrays, axis: int, size: int) -> Arrays:
        return tuple(array if array is None else _fit(array, axis, size) for array in arrays)

    taken, segments = cache.take(rows), None
    if taken.encoder_segments is not None:
        segments = _fit(taken.encoder_segments, 1, source)
    return replace(
        taken,
        keys=fit(taken.keys, 3, slots),
        values=fit(taken.values, 2, slots),
        cross_keys=fit(taken.cross_keys, 3, source),
        cross_values=fit(taken.cross_values, 2, source),
        encoder_segments=segments,
    )


def _fit(array: Array, axis: int, size: int) -> Array:
    """Cut or zero-pad a dimension to a size."""
    kept = lax.slice_in_dim(array, 0, min(size, array.shape[axis]), axis=axis)
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - kept.shape[axis])
    return jnp.pad(kept, widths)


@partial(jax.jit, static_argnames="slots")
def resized_history(history: Array, rows: Array, *, slots: int) -> Array:
    """Copy `rows` [R] of a history to `slots` positions."""
    return _fit(history.at[rows].get(out_sharding=mesh.spec_of(history)), 1, slots)


@partial(jax.jit, donate_argnames="batch")
def insert(batch: Batch, row: Array, cache: Cache, history: Array) -> Batch:
    """Put a prompt that has been read, of the batch's length, into a row.

    Args:
      batch: the batch.
      row: int32.
      cache: of P rows, all the same prompt, as many as devices split the batch over.
      history: int32 [P, S].
    """

    def put(old: Array, new: Array) -> Array:
        if not mesh.has_shardings():
            return lax.dynamic_update_slice_in_dim(old, new[:1].astype(old.dtype), row, 0)
        everywhere = jnp.zeros(old.shape[0], jnp.int32)
        new = new.at[everywhere].get(out_sharding=mesh.spec_of(old))
        is_row = (jnp.arange(old.shape[0]) == row).reshape(-1, *[1] * (old.ndim - 1))
        is_row = mesh.reshard(is_row, "batch", *[None] * (old.ndim - 1))
        return jnp.where(is_row, new, old)

    return jax.tree.map(put, batch, Batch(cache, history))


@partial(jax.jit, static_argnames=("model", "steps"), donate_argnames="batch")
def decode(
    model: Model, params: Params, batch: Batch, rows: Rows, vocab_size: Array, *, steps: int
) -> tuple[Batch, Chosen]:
    """Decode `steps` tokens of each row; the arrays of Chosen, [steps, B, ...], are replicated."""

    def step(carry: tuple[Batch, Rows], _: None) -> tuple[tuple[Batch, Rows], Chosen]:
        batch, rows = carry
        logits, cache = model.decode(
            params, rows.tokens[:, None], rows.positions[:, None], batch.cache
        )
        history, chosen = _choose(logits[:, 0], batch.history, rows, vocab_size)
        ended = jnp.any(chosen.tokens[:, None] == rows.stop_ids, axis=1)
        remaining = jnp.where((rows.remaining > 0) & ~ended, rows.remaining - 1, 0)
        tokens = jnp.where(remaining > 0, chosen.tokens, rows.tokens)
        positions = rows.positions + (remaining > 0)
        rows = rows._replace(tokens=tokens, positions=positions, remaining=remaining)
        return (Batch(cache, history), rows), chosen

    (batch, _), chosen = lax.scan(step, (batch, rows), length=steps)
    return batch, jax.tree.map(lambda x: mesh.reshard(x, *[None] * x.ndim), chosen)


def _choose(logits: Array, history: Array, rows: Rows, vocab_size: Array) -> tuple[Array, Chosen]:
    """Write the last tokens to the history and choose the next ones, locally on each device."""
    inputs, structure = jax.tree.flatten((history, rows))

    def local(logits: Array, vocab_size: Array, *inputs: Array) -> tuple[Array, ...]:
        history, rows = jax.tree.unflatten(structure, inputs)
        history = history.at[jnp.arange(len(history)), rows.positions].set(rows.tokens)
        chosen = choose_rows(
            logits, history, rows.positions, rows.prompt_lengths, vocab_size, rows.sampling
        )
        return history, *chosen

    def axes(array: Array) -> tuple[str | None, ...]:
        return ("batch", *[None] * (array.ndim - 1))

    row, table = ("batch",), ("batch", None)
    in_axes = (table, (), *map(axes, inputs))
    run = mesh.per_device(local, in_axes, (table, row, row, table, table))
    history, *chosen = run(logits, vocab_size, *inputs)
    return history, Chosen(*chosen)
