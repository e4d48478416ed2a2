"""Attention: the reference computation, and the choice of a faster one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.errors import UserError
from llmjax.model import attention_blocked, attention_cudnn
from llmjax.model.config import AttentionBackend
from llmjax.model.layers import Layout
from llmjax.model.mask import Mask
from llmjax.model.products import einsum

Attend = Callable[[jax.Array, jax.Array, jax.Array, Mask, float | None, Layout], jax.Array]
"""A way to attend; takes and returns what `reference` does, without a bias."""

SMALL = 128 * 128
"""Scores of a head up to which the reference is used: there blocks save nothing."""


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    bias: jax.Array | None = None,
    *,
    softcap: float | None = None,
    backend: AttentionBackend = "auto",
    layout: Layout,
) -> jax.Array:
    """softmax(q kᵀ / sqrt(K) + bias) v over the keys that the mask shows; zeros if it shows none.

    Args:
      q: [B, T, H, K].
      k: [B, S, N, K], where N divides H: query head h uses key head h // (H / N).
      v: [B, S, N, K].
      mask: who sees whom.
      bias: [B or 1, H, T, S] float32, or None; only the reference takes one.
      softcap: bounds the scores s as cap * tanh(s / cap).
      backend: which computation; all agree up to rounding.
      layout: how the queries' length is split; keys and values are whole.

    Returns:
      [B, T, H, K] in the dtype of q.
    """
    if bias is not None:
        return reference(q, k, v, mask, softcap, layout, bias)
    path = _choose(backend, q, k, mask, softcap)
    return path(q, k, v, mask, softcap, layout)


def _choose(
    backend: AttentionBackend, q: jax.Array, k: jax.Array, mask: Mask, softcap: float | None
) -> Attend:
    """The path a backend takes: its own where it suits, else one that always does."""
    platform = mesh.platform()
    if backend == "cudnn" and platform != "gpu":
        raise UserError("attention cudnn", f"this is a {platform}", "choose auto")
    if backend == "cudnn" or (backend == "auto" and platform == "gpu"):
        if attention_cudnn.suits(q, k, mask, softcap):
            return attention_cudnn.cudnn
    elif backend == "splash" or (backend == "auto" and platform == "tpu"):
        from llmjax.model import attention_splash  # Pallas takes a while to import

        if attention_splash.suits(q, k, mask):
            return attention_splash.splash
    elif backend == "blocked":
        return attention_blocked.blocked
    small = q.shape[1] * k.shape[1] <= SMALL or q.shape[1] == 1
    return reference if backend == "reference" or small else attention_blocked.blocked


def reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    softcap: float | None,
    layout: Layout,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Attention as written in the textbook, [T, S] scores and all: what the others must equal."""
    (b, t, h, width), (s, n) = q.shape, k.shape[1:3]
    dtype = q.dtype
    if mesh.platform() == "cpu" and t > 1:
        # XLA's CPU backend refuses some small batched products of bfloat16 with float32 sums.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    grouped = mesh.out_sharding("batch", layout.length, "kv_heads", None, None)
    q = q.reshape(b, t, n, h // n, width, out_sharding=grouped)
    scores = einsum("btngk,bsnk->bngts", q, k) * width**-0.5
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        spec = mesh.out_sharding(
            "batch" if len(bias) > 1 else None, "kv_heads", None, layout.length, None
        )
        scores = scores + bias.reshape(len(bias), n, h // n, t, s, out_sharding=spec)
    weights = _softmax(scores, mask.dense(t, s)).astype(v.dtype)
    mixed = einsum("bngts,bsnk->btngk", weights, v).astype(dtype)
    return mixed.reshape(b, t, h, width, out_sharding=mesh.out_sharding(*layout.heads()))


def _softmax(scores: jax.Array, seen: jax.Array | None) -> jax.Array:
    """Over the last axis of [B, N, G, T, S], in float32; a row in which nothing is seen is zero."""
    if seen is not None:
        seen = seen[:, None, None]
        scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
    odds = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if seen is not None:
        odds = jnp.where(seen, odds, 0.0)
    return odds / jnp.maximum(odds.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
