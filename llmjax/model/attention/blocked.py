"""Attention in blocks: memory grows with the length, not with its square.

The softmax is taken online over blocks of keys (Rabe and Staats, arXiv:2112.05682) and the backward
pass computes the scores again from their log-sum-exp (FlashAttention-2, arXiv:2307.08691). Blocks
that causality or the window hides from every query of a block are not computed at all.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.attention.mask import HIDDEN, AttentionInputs, BlockRules, visible
from llmjax.model.layers import ATTENTION, ActivationSharding
from llmjax.model.products import einsum
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

SHORT, LONG = 128, 256
"""Queries and keys of a block, in rows below 1024 tokens and from there on."""


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

    def score(self, i: jax.Array, j: jax.Array, rules: BlockRules) -> tuple[jax.Array, jax.Array]:
        """Scores [B, N, G, block, block] of query block i and key block j, and which are seen."""
        s = einsum("bngqk,bnsk->bngqs", self.q[i], self.k[j]) * self.q.shape[-1] ** -0.5
        if rules.softcap is not None:
            s = rules.softcap * jnp.tanh(s / rules.softcap)
        key = j * self.k.shape[3] + jnp.arange(self.k.shape[3])
        distance = self.rows.places[i][..., None] - key
        queries, keys = self.rows.queries, self.rows.keys
        queries = None if queries is None else queries[i][..., None]
        keys = None if keys is None else keys[j][:, None, :]
        seen = jnp.broadcast_to(key < self.keys, distance.shape)
        shown = visible(distance, queries, keys, rules.causal, rules.window)
        seen = seen if shown is None else seen & shown
        return s, seen[:, None, None]

    def reach(self, i: jax.Array, rules: BlockRules) -> tuple[jax.Array | int, jax.Array | int]:
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


def tile(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, rules: BlockRules) -> Tiles:
    block, keys = min(rules.block, q.shape[1]), k.shape[1]
    width = min(rules.block, keys)
    parts = Rows(
        cut(rows.places, block, "edge"),
        None if rows.queries is None else cut(rows.queries, block),
        None if rows.keys is None else cut(rows.keys, width),
    )
    k, v = (cut(x, width).swapaxes(2, 3) for x in (k, v))
    return Tiles(cut_queries(q, k.shape[2], block), k, v, parts, keys)


def blocked(inputs: AttentionInputs, block: int | None = None) -> jax.Array:
    """As `attention.reference`, in blocks of `block` queries and keys."""
    q, k, v, mask = inputs[:4]
    index = mask.index
    if index is None:
        index = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
    if block is None:
        block = SHORT if max(q.shape[1], k.shape[1]) < 1024 else LONG
    rows = Rows(index, mask.query_segments, mask.key_segments)
    return _blocked(q, k, v, rows, inputs.rules(block))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, rules: BlockRules) -> jax.Array:
    return _forward(q, k, v, rows, rules)[0]


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, rows: Rows, rules: BlockRules
) -> tuple[jax.Array, tuple]:
    heads, keys, index, lse_axes = _axes(rules.sharding)
    axes = (heads, keys, keys, index, index, ("batch", None))
    run = mesh.per_device(partial(_local_forward, rules=rules), axes, (heads, lse_axes))
    out, lse = (checkpoint_name(x, ATTENTION) for x in run(q, k, v, *rows))
    return out, (q, k, v, rows, out, lse)


def _backward(rules: BlockRules, saved: tuple, dout: jax.Array) -> tuple:
    q, k, v, rows, out, lse = saved
    heads, keys, index, lse_axes = _axes(rules.sharding)
    axes = (heads, keys, keys, index, index, ("batch", None), heads, lse_axes, heads)
    run = mesh.per_device(partial(_local_backward, rules=rules), axes, (heads, keys, keys))
    return *run(q, k, v, *rows, out, lse, dout), None


_blocked.defvjp(_forward, _backward)


def _axes(sharding: ActivationSharding) -> tuple[Axes, Axes, Axes, Axes]:
    """Logical axes of queries, of keys, of indices, of the log-sum-exp [B, H, T]."""
    keys = ("batch", None, "kv_heads", "head_dim")
    index = ("batch", sharding.length)
    return sharding.heads(), keys, index, ("batch", "heads", sharding.length)


def _local_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    queries: jax.Array | None,
    keys: jax.Array | None,
    *,
    rules: BlockRules,
) -> tuple[jax.Array, jax.Array]:
    tiles = tile(q, k, v, Rows(index, queries, keys), rules)

    def one(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(j: jax.Array, sofar: tuple) -> tuple:
            top, total, mixed = sofar
            s, seen = tiles.score(i, j, rules)
            s = jnp.where(seen, s, HIDDEN)
            higher = jnp.maximum(top, s.max(-1))
            exp_scores = jnp.where(seen, jnp.exp(s - higher[..., None]), 0.0)
            fade = jnp.exp(top - higher)
            more = einsum("bngqs,bnsk->bngqk", exp_scores.astype(v.dtype), tiles.v[j])
            return higher, total * fade + exp_scores.sum(-1), mixed * fade[..., None] + more

        shape = tiles.q.shape[1:]
        start = (jnp.full(shape[:-1], HIDDEN), jnp.zeros(shape[:-1]), jnp.zeros(shape))
        top, total, mixed = jax.lax.fori_loop(*tiles.reach(i, rules), add, start)
        total = jnp.where(total == 0.0, 1.0, total)  # nothing seen: zeros
        return (mixed / total[..., None]).astype(q.dtype), top + jnp.log(total)

    out, lse = jax.lax.map(one, jnp.arange(tiles.q.shape[0]))
    length = q.shape[1]
    lse = lse.transpose(1, 2, 3, 0, 4).reshape(q.shape[0], q.shape[2], -1)[..., :length]
    return join_queries(out, length), lse


def _local_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    index: jax.Array,
    queries: jax.Array | None,
    keys: jax.Array | None,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    *,
    rules: BlockRules,
) -> tuple[jax.Array, ...]:
    tiles = tile(q, k, v, Rows(index, queries, keys), rules)
    blocks, _, n, _, block, width = tiles.q.shape
    douts = cut_queries(dout.astype(v.dtype), n, block)
    product = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
    deltas = cut_queries(product, n, block)
    lses = cut_queries(lse.swapaxes(1, 2)[..., None], n, block)

    def one(sums: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
        def add(j: jax.Array, sums: tuple) -> tuple:
            dq, dk, dv = sums
            s, seen = tiles.score(i, j, rules)
            p = jnp.where(seen, jnp.exp(s - lses[i]), 0.0)
            ds = p * (einsum("bngqk,bnsk->bngqs", douts[i], tiles.v[j]) - deltas[i])
            if rules.softcap is not None:
                ds = ds * (1.0 - jnp.square(s / rules.softcap))
            ds, p = (ds * width**-0.5).astype(q.dtype), p.astype(v.dtype)
            dq = dq + einsum("bngqs,bnsk->bngqk", ds, tiles.k[j])
            dk = dk.at[j].add(einsum("bngqs,bngqk->bnsk", ds, tiles.q[i]))
            dv = dv.at[j].add(einsum("bngqs,bngqk->bnsk", p, douts[i]))
            return dq, dk, dv

        start = (jnp.zeros(tiles.q.shape[1:]), *sums)
        dq, dk, dv = jax.lax.fori_loop(*tiles.reach(i, rules), add, start)
        return (dk, dv), dq.astype(q.dtype)

    zeros = jnp.zeros(tiles.k.shape)
    (dk, dv), dq = jax.lax.scan(one, (zeros, zeros), jnp.arange(blocks))
    axes = _axes(rules.sharding)[1]
    dk, dv = (join(x.swapaxes(2, 3), k.shape[1]) for x in (dk, dv))
    dk, dv = (mesh.reduce_scatter(x, (rules.sharding.length,), axes) for x in (dk, dv))
    return join_queries(dq, q.shape[1]), dk.astype(k.dtype), dv.astype(v.dtype)
