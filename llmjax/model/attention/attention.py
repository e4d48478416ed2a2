"""Attention: the reference computation, and the choice of a faster one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llmjax.errors import UserError
from llmjax.model.attention import blocked as attention_blocked
from llmjax.model.attention import cudnn as attention_cudnn
from llmjax.model.attention import unrolled as attention_unrolled
from llmjax.model.attention.mask import HIDDEN, Mask
from llmjax.model.compute import AttentionBackend
from llmjax.model.layers import ActivationSharding
from llmjax.model.products import einsum
from llmjax.parallel import mesh

Attend = Callable[
    [jax.Array, jax.Array, jax.Array, Mask, float | None, ActivationSharding], jax.Array
]
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
    sharding: ActivationSharding,
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
      sharding: how the queries' length is split; keys and values are whole.

    Returns:
      [B, T, H, K] in the dtype of q.
    """
    if bias is not None:
        return reference(q, k, v, mask, softcap, sharding, bias)
    path = _choose(backend, q, k, mask, softcap, sharding)
    return path(q, k, v, mask, softcap, sharding)


def _choose(
    backend: AttentionBackend,
    q: jax.Array,
    k: jax.Array,
    mask: Mask,
    softcap: float | None,
    sharding: ActivationSharding,
) -> Attend:
    """The path a backend takes: its own where it suits, else one that always does."""
    if backend == "reference":
        return reference
    platform = mesh.platform()
    if backend == "cudnn" and platform != "gpu":
        raise UserError("attention cudnn", f"this is a {platform}", "choose auto")
    if backend == "cudnn" or (backend == "auto" and platform == "gpu"):
        if attention_cudnn.suits(q, k, mask, softcap):
            return attention_cudnn.cudnn
    elif backend == "splash" or (backend == "auto" and platform == "tpu"):
        from llmjax.model.attention import splash as attention_splash

        if attention_splash.suits(q, k, mask):
            return attention_splash.splash
    elif backend == "blocked":
        return attention_blocked.blocked
    if q.shape[1] * k.shape[1] <= SMALL or q.shape[1] == 1:
        return reference
    if backend == "auto" and attention_unrolled.suits(q, k, mask, softcap, sharding):
        return attention_unrolled.unrolled
    return attention_blocked.blocked


def attend_cached(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    bias: jax.Array | None = None,
    *,
    softcap: float | None = None,
    backend: AttentionBackend = "auto",
    sharding: ActivationSharding,
) -> jax.Array:
    """As `attend`, with keys [B, N, K, S] and values [B, N, S, K], as a cache holds them."""
    blocks = backend != "reference" and bias is None and q.shape[1] > 1
    if blocks and q.shape[1] * v.shape[2] > SMALL:
        k, v = k.transpose(0, 3, 1, 2), v.swapaxes(1, 2)
        return attention_blocked.blocked(q, k, v, mask, softcap, sharding)
    return _attend_heads(q, k, v, mask, softcap, sharding, bias)


def reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    softcap: float | None,
    sharding: ActivationSharding,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Attention as written in the textbook, [T, S] scores and all: what the others must equal."""
    k, v = k.transpose(0, 2, 3, 1), v.swapaxes(1, 2)
    return _attend_heads(q, k, v, mask, softcap, sharding, bias)


def _attend_heads(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: Mask,
    softcap: float | None,
    sharding: ActivationSharding,
    bias: jax.Array | None,
) -> jax.Array:
    """`reference` of keys [B, N, K, S] and values [B, N, S, K]: two products, over all heads."""
    (b, t, h, width), (n, s) = q.shape, v.shape[1:3]
    group, length = h // n, sharding.length
    seen, dtype = mask.dense(t, s), q.dtype
    if mesh.platform() == "cpu":
        # Its batched products of bfloat16 are refused in some small shapes, and slow in others.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    split = mesh.out_sharding("batch", length, "kv_heads", None, None)
    q = q.reshape(b, t, n, group, width, out_sharding=split).transpose(0, 2, 3, 1, 4)
    # A step of decoding; a row of one token in training keeps its axis, which may be split.
    step = t == 1 and length is None
    if step:
        scores = einsum("bngk,bnks->bngs", q[:, :, :, 0], k)[:, :, :, None] * width**-0.5
    else:
        scores = einsum("bngtk,bnks->bngts", q, k) * width**-0.5
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        batch = None if bias.shape[0] == 1 else "batch"  # it may be a symbol: no comparing sizes
        spec = mesh.out_sharding(batch, "kv_heads", None, length, None)
        scores = scores + bias.reshape(bias.shape[0], n, group, t, s, out_sharding=spec)
    weights = _softmax(scores, seen).astype(v.dtype)
    if step:
        mixed = einsum("bngs,bnsk->bngk", weights[:, :, :, 0], v)[:, :, :, None]
    else:
        mixed = einsum("bngts,bnsk->bngtk", weights, v)
    mixed = mixed.astype(dtype).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(b, t, h, width, out_sharding=mesh.out_sharding(*sharding.heads()))


def _softmax(scores: jax.Array, seen: jax.Array | None) -> jax.Array:
    """Over the last axis of [B, N, G, T, S], in float32; a row in which nothing is seen is zero."""
    if seen is not None:
        seen = seen[:, None, None]
        scores = jnp.where(seen, scores, HIDDEN)
    exp_scores = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if seen is not None:
        exp_scores = jnp.where(seen, exp_scores, 0.0)
    return exp_scores / jnp.maximum(exp_scores.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
