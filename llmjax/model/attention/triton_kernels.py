"""Kernels of flash attention for GPUs, in Pallas with Triton.

The softmax is computed online over blocks of keys, and the backward pass recomputes scores from
their log-sum-exp (FlashAttention-2, arXiv:2307.08691), once by blocks of queries and once by blocks
of keys. Exponentials are powers of 2, for which GPUs have an instruction.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from llmjax.model.attention.mask import visible
from llmjax.model.softcap import soft_cap, soft_cap_gradient

LOWEST = -1e30
"""Where the running maximum begins: finite, and below every score."""

Refs = Any
"""A reference to an array in the GPU's memory, or None."""


class Tiles(NamedTuple):
    """Static parameters of the kernels: the mask and the blocks."""

    causal: bool
    window: int | None
    rows: int
    """Queries of a block."""
    columns: int
    """Keys of a block."""
    softcap: float | None
    width: int
    """Of a head."""

    @property
    def padded(self) -> int:
        """The width of a head in the kernels, which is a power of 2."""
        return max(16, 1 << (self.width - 1).bit_length())

    def scores(self, product: jax.Array) -> jax.Array:
        """Products of queries and keys -> scores, as exponents of e."""
        return soft_cap(product * self.width**-0.5, self.softcap)

    def by_product(self, gradient: jax.Array, scores: jax.Array) -> jax.Array:
        """The gradient by scores -> that by products, but for the scale."""
        return soft_cap_gradient(gradient, scores, self.softcap)


class Tile(NamedTuple):
    """Indices in the row and segments of a block's queries, or of its keys."""

    places: jax.Array
    segments: jax.Array | None


def seen(queries: Tile, keys: Tile, tiles: Tiles) -> jax.Array:
    """Which keys each query sees, where there is a mask; tiles broadcast against each other."""
    distance = queries.places - keys.places
    result = visible(distance, queries.segments, keys.segments, tiles.causal, tiles.window)
    assert result is not None
    return jnp.broadcast_to(result, distance.shape)


def over_blocks(ranges: Refs, body: Callable, carry: Any, masks: bool) -> Any:
    """Runs body(block, carry, masked) over the blocks of `ranges.block_ranges`."""
    first, start, stop, end = (ranges[bound] for bound in range(4))
    carry = jax.lax.fori_loop(start, stop, partial(body, masked=False), carry)
    if not masks:
        return carry
    before = start - first

    def edge(step: jax.Array, carry: Any) -> Any:
        block = jnp.where(step < before, first + step, stop + step - before)
        return body(block, carry, masked=True)

    return jax.lax.fori_loop(0, before + end - stop, edge, carry)


class Loader(NamedTuple):
    """Loads heads whose width is padded to a power of 2 with zeros."""

    width: int
    padded: int

    def mask(self) -> jax.Array | None:
        return None if self.width == self.padded else (jnp.arange(self.padded) < self.width)[None]

    def load(self, ref: Refs) -> jax.Array:
        mask = self.mask()
        return triton.load(ref, mask=mask, other=None if mask is None else 0.0)

    def store(self, ref: Refs, value: jax.Array) -> None:
        triton.store(ref, value.astype(ref.dtype), mask=self.mask())


def tile(block: jax.Array, size: int, segments: Refs, column: bool) -> Tile:
    """Block number `block` of `size` tokens, as a column or as a row."""
    places = block * size + jnp.arange(size)
    ids = None if segments is None else segments[pl.ds(block * size, size)]
    expand = (slice(None), None) if column else (None, slice(None))
    return Tile(places[expand], None if ids is None else ids[expand])


def forward(
    ranges: Refs,
    q: Refs,
    k: Refs,
    v: Refs,
    query_segments: Refs,
    key_segments: Refs,
    out: Refs,
    lse: Refs,
    *,
    tiles: Tiles,
) -> None:
    """One block of queries of a head: its output, and the log-sum-exp as an exponent of 2."""
    heads = Loader(tiles.width, q.shape[-1])
    row = pl.program_id(0)
    queries = tile(row, tiles.rows, query_segments, column=True)
    rows = heads.load(q)

    def body(block: jax.Array, carry: tuple, masked: bool) -> tuple:
        top, total, weighted = carry
        columns = pl.ds(block * tiles.columns, tiles.columns)
        s = tiles.scores(triton.dot(rows, heads.load(k.at[columns]).T)) * math.log2(math.e)
        if masked:
            keys = tile(block, tiles.columns, key_segments, column=False)
            s = jnp.where(seen(queries, keys, tiles), s, -jnp.inf)
        new_top = jnp.maximum(top, s.max(-1))
        scale, p = jnp.exp2(top - new_top), jnp.exp2(s - new_top[:, None])
        values = heads.load(v.at[columns])
        weighted = weighted * scale[:, None] + triton.dot(p.astype(values.dtype), values)
        return new_top, total * scale + p.sum(-1), weighted

    top, total = jnp.full(tiles.rows, LOWEST, jnp.float32), jnp.zeros(tiles.rows, jnp.float32)
    start = (top, total, jnp.zeros(q.shape, jnp.float32))
    top, total, weighted = over_blocks(ranges, body, start, _has_mask(tiles, key_segments))
    total = jnp.where(total == 0.0, 1.0, total)  # nothing visible: zeros
    heads.store(out, weighted / total[:, None])
    lse[...] = top + jnp.log2(total)


def by_queries(
    ranges: Refs,
    q: Refs,
    k: Refs,
    v: Refs,
    query_segments: Refs,
    key_segments: Refs,
    dout: Refs,
    lse: Refs,
    delta: Refs,
    dq: Refs,
    *,
    tiles: Tiles,
) -> None:
    """The gradient by one block of queries of a head."""
    heads = Loader(tiles.width, q.shape[-1])
    queries = tile(pl.program_id(0), tiles.rows, query_segments, column=True)
    rows, douts = heads.load(q), heads.load(dout)
    lses, deltas = lse[...][:, None], delta[...][:, None]

    def body(block: jax.Array, total: jax.Array, masked: bool) -> jax.Array:
        columns = pl.ds(block * tiles.columns, tiles.columns)
        keys = heads.load(k.at[columns])
        s = tiles.scores(triton.dot(rows, keys.T))
        p = jnp.exp2(s * math.log2(math.e) - lses)
        if masked:
            key_tile = tile(block, tiles.columns, key_segments, column=False)
            p = jnp.where(seen(queries, key_tile, tiles), p, 0.0)
        ds = p * (triton.dot(douts, heads.load(v.at[columns]).T) - deltas)
        return total + triton.dot(tiles.by_product(ds, s).astype(keys.dtype), keys)

    zeros = jnp.zeros(q.shape, jnp.float32)
    total = over_blocks(ranges, body, zeros, _has_mask(tiles, key_segments))
    heads.store(dq, total * tiles.width**-0.5)


def by_keys(
    ranges: Refs,
    q: Refs,
    k: Refs,
    v: Refs,
    query_segments: Refs,
    key_segments: Refs,
    dout: Refs,
    lse: Refs,
    delta: Refs,
    dk: Refs,
    dv: Refs,
    *,
    tiles: Tiles,
) -> None:
    """The gradients by one block of keys and of values, from all query heads that share them.

    Scores are transposed: [keys, queries].
    """
    heads = Loader(tiles.width, k.shape[-1])
    keys = tile(pl.program_id(0), tiles.columns, key_segments, column=True)
    columns, values = heads.load(k), heads.load(v)

    def head(group: jax.Array, carry: tuple) -> tuple:
        def body(block: jax.Array, carry: tuple, masked: bool) -> tuple:
            dks, dvs = carry
            rows = pl.ds(block * tiles.rows, tiles.rows)
            queries = heads.load(q.at[rows, group])
            s = tiles.scores(triton.dot(columns, queries.T))
            p = jnp.exp2(s * math.log2(math.e) - lse[group, rows][None])
            if masked:
                query_tile = tile(block, tiles.rows, query_segments, column=False)
                p = jnp.where(seen(query_tile, keys, tiles), p, 0.0)
            douts = heads.load(dout.at[rows, group])
            dvs = dvs + triton.dot(p.astype(douts.dtype), douts)
            ds = p * (triton.dot(values, douts.T) - delta[group, rows][None])
            ds = tiles.by_product(ds, s).astype(queries.dtype)
            return dks + triton.dot(ds, queries), dvs

        return over_blocks(ranges, body, carry, _has_mask(tiles, key_segments))

    zeros = jnp.zeros(k.shape, jnp.float32)
    dks, dvs = jax.lax.fori_loop(0, q.shape[1], head, (zeros, zeros))
    heads.store(dk, dks * tiles.width**-0.5)
    heads.store(dv, dvs)


def _has_mask(tiles: Tiles, key_segments: Refs) -> bool:
    return tiles.causal or tiles.window is not None or key_segments is not None
