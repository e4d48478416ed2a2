"""Attention: the reference computation, and the choice of a faster one."""

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.model.layers import Layout
from llmjax.model.mask import Mask


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    *,
    softcap: float | None = None,
    backend: str = "auto",
    layout: Layout,
) -> jax.Array:
    """softmax(q kᵀ / sqrt(K)) v over the keys that the mask shows; zeros where it shows none.

    Args:
      q: [B, T, H, K].
      k: [B, S, N, K], where N divides H: query head h uses key head h // (H / N).
      v: [B, S, N, K].
      mask: who sees whom.
      softcap: bounds the scores s as cap * tanh(s / cap).
      backend: which computation; all agree up to rounding.
      layout: how the queries' length is split; keys and values are whole.

    Returns:
      [B, T, H, K] in the dtype of q.
    """
    return reference(q, k, v, mask, softcap, layout)


def reference(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, softcap: float | None, layout: Layout
) -> jax.Array:
    """Attention as written in the textbook, [T, S] scores and all: what the others must equal."""
    (b, t, h, width), (s, n) = q.shape, k.shape[1:3]
    grouped = mesh.out_sharding("batch", layout.length, "kv_heads", None, None)
    q = q.reshape(b, t, n, h // n, width, out_sharding=grouped)
    scores = _product("btngk,bsnk->bngts", q, k) * width**-0.5
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    weights = _softmax(scores, mask.dense(t, s)).astype(v.dtype)
    mixed = _product("bngts,bsnk->btngk", weights, v).astype(v.dtype)
    return mixed.reshape(b, t, h, width, out_sharding=mesh.out_sharding(*layout.heads()))


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(formula, a, b, precision=exact, preferred_element_type=jnp.float32)


def _softmax(scores: jax.Array, seen: jax.Array | None) -> jax.Array:
    """Over the last axis of [B, N, G, T, S], in float32; a row in which nothing is seen is zero."""
    if seen is not None:
        seen = seen[:, None, None]
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    odds = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if seen is not None:
        odds = jnp.where(seen, odds, 0.0)
    return odds / jnp.maximum(odds.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
