"""Rows cut into blocks, and what one block of queries has to do with one of keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.layers import Layout
from llmjax.model.products import einsum

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""The score of a key out of sight; finite, so that differences are."""


class Rules(NamedTuple):
    """What is known while tracing."""

    causal: bool
    window: int | None
    softcap: float | None
    layout: Layout
    block: int


class Rows(NamedTuple):
    """What a mask says of each row; segments may be None."""

    places: jax.Array
    """[B, T] index of each query."""
    queries: jax.Array | None
    """[B, T] segments."""
    keys: jax.Array | None
    """[B, S] segments."""


class Tiles(NamedTuple):
    """One device's arrays cut into blocks along the length; heads before it, grouped."""

    q: jax.Array
    """[queries' blocks, B, N, G, block, K]."""
    k: jax.Array
    """[keys' blocks, B, N, block, K], as v."""
    v: jax.Array
    rows: Rows
    """[blocks, B, block] each."""
    keys: int
    """S, before padding to whole blocks."""

    def score(self, i: jax.Array, j: jax.Array, rules: Rules) -> tuple[jax.Array, jax.Array]:
        """Scores [B, N, G, block, block] of query block i and key block j, and which are seen."""
        s = einsum("bngqk,bnsk->bngqs", self.q[i], self.k[j]) * self.q.shape[-1] ** -0.5
        if rules.softcap is not None:
            s = rules.softcap * jnp.tanh(s / rules.softcap)
        key = j * self.k.shape[3] + jnp.arange(self.k.shape[3])
        distance = self.rows.places[i][..., None] - key
        seen = jnp.broadcast_to(key < self.keys, distance.shape)
        if rules.causal:
            seen &= distance >= 0
        if rules.window is not None:
            seen &= jnp.abs(distance) < rules.window
        if self.rows.keys is not None:
            segment = self.rows.keys[j][:, None, :]
            seen &= segment != 0
            if self.rows.queries is not None:
                seen &= segment == self.rows.queries[i][..., None]
        return s, seen[:, None, None]

    def reach(self, i: jax.Array, rules: Rules) -> tuple[jax.Array | int, jax.Array | int]:
        """The first key block that query block i may see, and the one after the last."""
        index, (blocks, block) = self.rows.places[i], (self.k.shape[0], self.k.shape[3])
        first: jax.Array | int = 0
        end: jax.Array | int = blocks
        if rules.causal:
            end = jnp.minimum(index.max() // block + 1, blocks)
        if rules.window is not None:
            first = jnp.maximum((index.min() - rules.window + 1) // block, 0)
            if not rules.causal:
                end = jnp.minimum((index.max() + rules.window - 1) // block + 1, blocks)
        return first, end


def cut(x: jax.Array, block: int, mode: str = "constant") -> jax.Array:
    """[B, T, ...] -> [blocks, B, block, ...]."""
    blocks = -(-x.shape[1] // block)
    room = [(0, 0), (0, blocks * block - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, room, mode=mode)
    return x.reshape(x.shape[0], blocks, block, *x.shape[2:]).swapaxes(0, 1)


def join(x: jax.Array, length: int) -> jax.Array:
    """[blocks, B, block, ...] -> [B, T, ...]."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def cut_queries(q: jax.Array, n: int, block: int) -> jax.Array:
    """[B, T, H, K] -> [blocks, B, N, G, block, K]."""
    x = cut(q, block)
    x = x.reshape(*x.shape[:3], n, -1, x.shape[-1])
    return x.transpose(0, 1, 3, 4, 2, 5)


def join_queries(x: jax.Array, length: int) -> jax.Array:
    """[blocks, B, N, G, block, K] -> [B, T, H, K]."""
    x = x.transpose(0, 1, 4, 2, 3, 5)
    return join(x.reshape(*x.shape[:3], -1, x.shape[-1]), length)


def tile(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, rules: Rules) -> Tiles:
    block, keys = min(rules.block, q.shape[1]), k.shape[1]
    width = min(rules.block, keys)
    parts = Rows(
        cut(rows.places, block, "edge"),
        None if rows.queries is None else cut(rows.queries, block),
        None if rows.keys is None else cut(rows.keys, width),
    )
    k, v = (cut(x, width).swapaxes(2, 3) for x in (k, v))
    return Tiles(cut_queries(q, k.shape[2], block), k, v, parts, keys)
