"""Unrolled blockwise self-attention, for rows of moderate length on CPUs.

Queries and keys of a row have the same indices, so the keys that a block of queries may see are a
slice known while tracing, and only these are multiplied. The backward pass recomputes the scores
(FlashAttention-2, arXiv:2307.08691), transposed: the contracted dimension is then last on the left
of every product, where XLA's CPU backend is fast.
"""

import jax
import jax.numpy as jnp

from llmjax.model.attention import fused
from llmjax.model.attention.mask import HIDDEN, AttentionInputs, BlockRules, MaskArrays, visible
from llmjax.parallel import mesh

BLOCK = 128
"""Tokens of a block."""
LONGEST = 1024
"""Tokens of a row up to which unrolling is worth its compile time."""


def supports(inputs: AttentionInputs) -> bool:
    """Whether this computes it: self-attention on a CPU, unsplit rows, no soft-cap."""
    mask = inputs.mask
    return (
        mesh.platform() == "cpu"
        and inputs.q.shape[1] == inputs.k.shape[1] <= LONGEST
        and mask.index is None
        and mask.query_segments is mask.key_segments
        and inputs.softcap is None
        and mesh.parts(inputs.sharding.length) == 1
    )


def unrolled(inputs: AttentionInputs, block: int = BLOCK) -> jax.Array:
    """As `attention.reference`, if supported."""
    q, k, v, mask = inputs[:4]
    arrays = MaskArrays(key_segments=mask.key_segments)  # the queries' are the same
    return fused.attend(q, k, v, arrays, inputs.sinks, inputs.rules(block), UNROLLED)


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskArrays, rules: BlockRules
) -> tuple[jax.Array, jax.Array]:
    (_, length, heads, width), group = q.shape, q.shape[2] // k.shape[2]
    q, k, v = _heads_first(q), _heads_first(k, group), _heads_first(v, group)
    outs, lses = [], []
    for queries, keys in _blocks(length, rules, forward=True):
        seen = _seen(queries, keys, mask.key_segments, rules)
        s = _where(seen, _nt(q[:, queries], k[:, keys]) * width**-0.5, HIDDEN)
        top = s.max(-1, keepdims=True)
        exp_scores = _where(seen, jnp.exp(s - top), 0.0)
        total = exp_scores.sum(-1, keepdims=True)
        total = jnp.where(total == 0.0, 1.0, total)  # nothing visible: zeros
        outs.append((_nn(exp_scores.astype(v.dtype), v[:, keys]) / total).astype(q.dtype))
        lses.append((top + jnp.log(total))[..., 0])
    lse = jnp.concatenate(lses, 1).reshape(-1, heads, length)
    return _heads_last(jnp.concatenate(outs, 1), heads), lse


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
) -> tuple[jax.Array, ...]:
    (_, length, heads, width), kv_heads = q.shape, k.shape[2]
    group = heads // kv_heads
    lse, delta = (x.reshape(-1, 1, length) for x in saved)
    q, dout = _heads_first(q), _heads_first(dout)
    k, v = _heads_first(k, group), _heads_first(v, group)
    kt, dqt = k.swapaxes(1, 2), jnp.zeros((len(q), width, length))
    dks, dvs = [], []
    for keys, queries in _blocks(length, rules, forward=False):
        s = _nt(k[:, keys], q[:, queries]) * width**-0.5
        seen = _seen(queries, keys, mask.key_segments, rules)
        exp_scores = jnp.exp(s - lse[:, :, queries])
        exp_scores = _where(None if seen is None else seen.swapaxes(1, 2), exp_scores, 0.0)
        ds = exp_scores * (_nt(v[:, keys], dout[:, queries]) - delta[:, :, queries]) * width**-0.5
        ds = ds.astype(q.dtype)
        dvs.append(_nn(exp_scores.astype(v.dtype), dout[:, queries]))
        dks.append(_nn(ds, q[:, queries]))
        padding = ((0, 0), (0, 0), (queries.start, length - queries.stop))
        dqt = dqt + jnp.pad(_nn(kt[:, :, keys], ds), padding)
    dq = _heads_last(dqt.swapaxes(1, 2), heads).astype(q.dtype)
    sums = (_heads_last(jnp.concatenate(parts, 1), heads) for parts in (dks, dvs))
    dk, dv = (x.reshape(*x.shape[:2], kv_heads, group, -1).sum(3) for x in sums)
    return dq, dk.astype(k.dtype), dv.astype(v.dtype)


UNROLLED = fused.Implementation(_forward, _backward)


def _blocks(length: int, rules: BlockRules, *, forward: bool) -> list[tuple[slice, slice]]:
    """Returns query blocks with their visible keys; or, backward, key blocks with their queries."""
    reach = length if rules.window is None else rules.window - 1
    blocks = []
    for start in range(0, length, rules.block):
        stop = min(start + rules.block, length)
        before = 0 if not forward and rules.causal else reach
        after = 0 if forward and rules.causal else reach
        visible_range = slice(max(0, start - before), min(length, stop + after))
        blocks.append((slice(start, stop), visible_range))
    return blocks


def _seen(
    queries: slice, keys: slice, segments: jax.Array | None, rules: BlockRules
) -> jax.Array | None:
    """[B or 1, queries, keys] bool; None if every query sees every key."""
    distance = jnp.arange(queries.start, queries.stop)[:, None] - jnp.arange(keys.start, keys.stop)
    query, key = None, None
    if segments is not None:
        query, key = segments[:, queries, None], segments[:, None, keys]
    return visible(distance[None], query, key, rules.causal, rules.window)


def _where(seen: jax.Array | None, x: jax.Array, otherwise: float) -> jax.Array:
    """x [B H, i, j] where seen [B or 1, i, j], else `otherwise`."""
    if seen is None:
        return x
    rows = x.reshape(len(seen), -1, *x.shape[1:])
    return jnp.where(seen[:, None], rows, otherwise).reshape(x.shape)


def _heads_first(x: jax.Array, repeats: int = 1) -> jax.Array:
    """[B, T, H, K] -> [B H, T, K], with each head repeated."""
    b, t, h, k = x.shape
    x = x.swapaxes(1, 2)
    if repeats > 1:
        x = jnp.broadcast_to(x[:, :, None], (b, h, repeats, t, k))
    return x.reshape(b * h * repeats, t, k)


def _heads_last(x: jax.Array, heads: int) -> jax.Array:
    """[B H, T, K] -> [B, T, H, K]."""
    return x.reshape(-1, heads, *x.shape[1:]).swapaxes(1, 2)


def _nt(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, i, c] and [n, j, c] -> [n, i, j] float32."""
    return _product(a, b, (2, 2))


def _nn(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n, i, c] and [n, c, j] -> [n, i, j] float32."""
    return _product(a, b, (2, 1))


def _product(a: jax.Array, b: jax.Array, contract: tuple[int, int]) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contract[0],), (contract[1],)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dimensions, precision, preferred_element_type=jnp.float32)
