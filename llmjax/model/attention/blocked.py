"""Blockwise attention, with memory linear in the length.

The softmax is computed online over blocks of keys (Rabe and Staats, arXiv:2112.05682), and the
backward pass recomputes the scores from their log-sum-exp (FlashAttention-2, arXiv:2307.08691). Key
blocks that causality or the window hides from a whole query block are skipped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.attention import fused
from llmjax.model.attention.mask import HIDDEN, AttentionInputs, BlockRules, MaskArrays, visible
from llmjax.model.products import einsum
from llmjax.model.softcap import soft_cap, soft_cap_gradient
from llmjax.parallel import exchanges

SHORT, LONG = 128, 256
"""Tokens of a block, for rows below 1024 tokens and longer ones."""


class Tiles(NamedTuple):
    """One device's arrays in blocks along the length, with heads grouped and before the length."""

    q: jax.Array
    """[query blocks, B, N, G, block, K]."""
    k: jax.Array
    """[key blocks, B, N, block, K]."""
    v: jax.Array
    """[key blocks, B, N, block, V]."""
    query_index: jax.Array
    """[query blocks, B, block], of each query."""
    query_segments: jax.Array | None
    """As query_index."""
    key_segments: jax.Array | None
    """[key blocks, B, block]."""
    num_keys: int
    """S, before padding to full blocks."""

    def score(self, i: jax.Array, j: jax.Array, rules: BlockRules) -> tuple[jax.Array, jax.Array]:
        """Scores [B, N, G, block, block] of query block i by key block j, and which are visible."""
        s = einsum("bngqk,bnsk->bngqs", self.q[i], self.k[j]) * self.q.shape[-1] ** -0.5
        s = soft_cap(s, rules.softcap)
        key = j * self.k.shape[3] + jnp.arange(self.k.shape[3])
        distance = self.query_index[i][..., None] - key
        queries, keys = self.query_segments, self.key_segments
        queries = None if queries is None else queries[i][..., None]
        keys = None if keys is None else keys[j][:, None, :]
        real = jnp.broadcast_to(key < self.num_keys, distance.shape)
        seen = visible(distance, queries, keys, rules.causal, rules.window)
        seen = real if seen is None else real & seen
        return s, seen[:, None, None]

    def reach(self, i: jax.Array, rules: BlockRules) -> tuple[jax.Array | int, jax.Array | int]:
        """Range of key blocks that query block i may see: the first, and the one after the last."""
        index, (blocks, block) = self.query_index[i], (self.k.shape[0], self.k.shape[3])
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
    padding = [(0, 0), (0, blocks * block - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, padding, mode=mode)
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


def tile(q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskArrays, rules: BlockRules) -> Tiles:
    """Cuts one device's arrays into blocks."""
    block, keys = min(rules.block, q.shape[1]), k.shape[1]
    width = min(rules.block, keys)
    k, v = (cut(x, width).swapaxes(2, 3) for x in (k, v))
    assert mask.query_index is not None
    return Tiles(
        cut_queries(q, k.shape[2], block),
        k,
        v,
        cut(mask.query_index, block, "edge"),
        None if mask.query_segments is None else cut(mask.query_segments, block),
        None if mask.key_segments is None else cut(mask.key_segments, width),
        keys,
    )


def blocked(inputs: AttentionInputs, block: int | None = None) -> jax.Array:
    """As `attention.reference`, in blocks of `block` queries and keys."""
    q, k, v, mask = inputs[:4]
    index = mask.index
    if index is None:
        index = jnp.broadcast_to(jnp.arange(q.shape[1]), q.shape[:2])
    if block is None:
        block = SHORT if max(q.shape[1], k.shape[1]) < 1024 else LONG
    arrays = MaskArrays(index, mask.query_segments, mask.key_segments)
    return fused.attend(q, k, v, arrays, inputs.sinks, inputs.rules(block), BLOCKED)


def local_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    rules: BlockRules,
    dtype: jnp.dtype | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of one device's arrays.

    Args:
      q: [B, T, H, K].
      k: [B, S, N, K].
      v: [B, S, N, V].
      mask: which keys each query sees.
      rules: static parameters.
      dtype: of the output; None: that of q.

    Returns:
      The output [B, T, H, V], zeros where a query sees nothing, and the log-sum-exp of the scores
      [B, H, T] float32, HIDDEN there.
    """
    tiles, dtype = tile(q, k, v, mask, rules), dtype or q.dtype

    def query_block(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        def add(j: jax.Array, carry: tuple) -> tuple:
            top, total, weighted = carry
            s, seen = tiles.score(i, j, rules)
            s = jnp.where(seen, s, HIDDEN)
            new_top = jnp.maximum(top, s.max(-1))
            exp_scores = jnp.where(seen, jnp.exp(s - new_top[..., None]), 0.0)
            scale = jnp.exp(top - new_top)
            update = einsum("bngqs,bnsk->bngqk", exp_scores.astype(v.dtype), tiles.v[j])
            return new_top, total * scale + exp_scores.sum(-1), weighted * scale[..., None] + update

        shape = tiles.q.shape[1:]
        sums = jnp.zeros((*shape[:-1], v.shape[-1]))
        start = (jnp.full(shape[:-1], HIDDEN), jnp.zeros(shape[:-1]), sums)
        top, total, weighted = jax.lax.fori_loop(*tiles.reach(i, rules), add, start)
        total = jnp.where(total == 0.0, 1.0, total)  # nothing visible: zeros
        return (weighted / total[..., None]).astype(dtype), top + jnp.log(total)

    out, lse = jax.lax.map(query_block, jnp.arange(tiles.q.shape[0]))
    length = q.shape[1]
    lse = lse.transpose(1, 2, 3, 0, 4).reshape(q.shape[0], q.shape[2], -1)[..., :length]
    return join_queries(out, length), lse


def local_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
    dtype: jnp.dtype,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients by one device's queries, keys and values.

    Args:
      q: [B, T, H, K].
      k: [B, S, N, K].
      v: [B, S, N, V].
      mask: which keys each query sees.
      saved: the log-sum-exp over all keys that the queries see, these or others too, and
        `fused.delta` of their output, [B, H, T] float32 each.
      dout: [B, T, H, V], the gradient by the output.
      rules: static parameters.
      dtype: of the gradient by q; the others are float32.
    """
    tiles = tile(q, k, v, mask, rules)
    blocks, _, n, _, block, width = tiles.q.shape
    douts = cut_queries(dout.astype(v.dtype), n, block)
    lses, deltas = (cut_queries(x.swapaxes(1, 2)[..., None], n, block) for x in saved)

    def query_block(sums: tuple, i: jax.Array) -> tuple[tuple, jax.Array]:
        def add(j: jax.Array, sums: tuple) -> tuple:
            dq, dk, dv = sums
            s, seen = tiles.score(i, j, rules)
            p = jnp.where(seen, jnp.exp(s - lses[i]), 0.0)
            ds = p * (einsum("bngqk,bnsk->bngqs", douts[i], tiles.v[j]) - deltas[i])
            ds = soft_cap_gradient(ds, s, rules.softcap)
            ds, p = (ds * width**-0.5).astype(q.dtype), p.astype(v.dtype)
            dq = dq + einsum("bngqs,bnsk->bngqk", ds, tiles.k[j])
            dk = dk.at[j].add(einsum("bngqs,bngqk->bnsk", ds, tiles.q[i]))
            dv = dv.at[j].add(einsum("bngqs,bngqk->bnsk", p, douts[i]))
            return dq, dk, dv

        start = (jnp.zeros(tiles.q.shape[1:]), *sums)
        dq, dk, dv = jax.lax.fori_loop(*tiles.reach(i, rules), add, start)
        return (dk, dv), dq.astype(dtype)

    start = jnp.zeros(tiles.k.shape), jnp.zeros(tiles.v.shape)
    (dk, dv), dq = jax.lax.scan(query_block, start, jnp.arange(blocks))
    dk, dv = (join(x.swapaxes(2, 3), k.shape[1]) for x in (dk, dv))
    return join_queries(dq, q.shape[1]), dk, dv


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `local_backward`, for keys that devices with parts of the queries share."""
    dq, dk, dv = local_backward(q, k, v, mask, saved, dout, rules, q.dtype)
    axes = fused.axes_of(rules.sharding).keys
    dk, dv = (exchanges.reduce_scatter(x, (rules.sharding.length,), axes) for x in (dk, dv))
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


BLOCKED = fused.Implementation(local_forward, _backward)
