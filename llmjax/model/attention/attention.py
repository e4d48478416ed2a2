"""Attention: the reference implementation, and the choice of a faster one."""

import logging
from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

import jax
import jax.numpy as jnp

from llmjax.errors import UserError
from llmjax.model.attention import all_to_all, blocked, cudnn, ring, unrolled
from llmjax.model.attention.mask import HIDDEN, AttentionInputs
from llmjax.model.attention.widths import equal_widths
from llmjax.model.compute import AttentionBackend
from llmjax.model.products import einsum
from llmjax.model.softcap import soft_cap
from llmjax.parallel import mesh

log = logging.getLogger(__name__)

Attend = Callable[[AttentionInputs], jax.Array]
"""An implementation of attention; only `reference` takes a bias."""

SMALL = 128 * 128
"""Scores of a head up to which the reference is used, since blocks save nothing."""


def attend(inputs: AttentionInputs, backend: AttentionBackend = "auto") -> jax.Array:
    """softmax(q kᵀ / sqrt(K) + bias) v over the visible keys; zeros where there are none.

    Args:
      inputs: queries, keys, values and mask.
      backend: which implementation; all agree up to rounding.

    Returns:
      [B, T, H, V] in the dtype of q.
    """
    method = inputs.sharding.context
    if method == "ring":
        return ring.ring(inputs)
    if method == "all_to_all":
        return all_to_all.all_to_all(inputs, partial(attend, backend=backend))
    implementation = reference if inputs.bias is not None else _choose(backend, inputs)
    return implementation(inputs)


def _choose(backend: AttentionBackend, inputs: AttentionInputs) -> Attend:
    """Returns the backend's implementation if it supports the inputs, else a general one."""
    if backend == "reference":
        return reference
    platform = mesh.platform()
    if backend in ("cudnn", "triton") and platform != "gpu":
        raise UserError(
            f"attention {backend}", f"needs a GPU, and this is a {platform}", "choose auto"
        )
    if backend == "cudnn" and inputs.sinks is not None:
        _no_sinks_in_cudnn()
    if backend in ("cudnn", "triton") or (backend == "auto" and platform == "gpu"):
        kernel = _on_gpu(backend, inputs)
        if kernel is not None:
            return kernel
    elif backend == "splash" or (backend == "auto" and platform == "tpu"):
        from llmjax.model.attention import splash

        if splash.supports(inputs):
            if max(inputs.q.shape[1], inputs.k.shape[1]) > splash.LONGEST and ring.supports(inputs):
                return ring.ring
            return splash.splash
    elif backend == "blocked":
        return blocked.blocked
    queries, keys = inputs.q.shape[1], inputs.k.shape[1]
    if queries * keys <= SMALL or queries == 1:
        return reference
    if backend == "auto" and unrolled.supports(inputs):
        return unrolled.unrolled
    return blocked.blocked


def _on_gpu(backend: AttentionBackend, inputs: AttentionInputs) -> Attend | None:
    """Returns cuDNN's kernels or ours: cuDNN's where both can, unless it reads the mask."""
    fits_cudnn = backend != "triton" and cudnn.supports(inputs)
    if fits_cudnn and (backend == "cudnn" or not cudnn.needs_bias(inputs.mask)):
        return equal_widths(cudnn.cudnn)
    triton = _triton() if backend != "cudnn" else None
    if triton is not None and triton.supports(inputs):
        return equal_widths(triton.flash)
    return equal_widths(cudnn.cudnn) if fits_cudnn else None


@cache
def _no_sinks_in_cudnn() -> None:
    log.warning(
        "compute.attention cudnn uses slower attention: cuDNN has no attention sinks; choose auto"
    )


@cache
def _triton() -> ModuleType | None:
    """Our kernels in Triton, or None, with the reason, if JAX does not compile them any more."""
    try:
        from llmjax.model.attention import triton
    except ImportError:
        log.warning(
            "packed rows use slower attention: JAX %s has no jax.experimental.pallas.triton"
            " (0.10.2 to 0.12 have it)",
            jax.__version__,
        )
        return None
    return triton


def attend_cached(inputs: AttentionInputs, backend: AttentionBackend = "auto") -> jax.Array:
    """As `attend`, with the cache's layout: keys [B, N, K, S] and values [B, N, S, K]."""
    queries, keys = inputs.q.shape[1], inputs.v.shape[2]
    in_blocks = backend != "reference" and inputs.bias is None and queries > 1
    if in_blocks and queries * keys > SMALL:
        k, v = inputs.k.transpose(0, 3, 1, 2), inputs.v.swapaxes(1, 2)
        return blocked.blocked(inputs._replace(k=k, v=v))
    return _attend_heads(inputs)


def reference(inputs: AttentionInputs) -> jax.Array:
    """Textbook attention with all [T, S] scores, which the other implementations must equal."""
    k, v = inputs.k.transpose(0, 2, 3, 1), inputs.v.swapaxes(1, 2)
    return _attend_heads(inputs._replace(k=k, v=v))


def _attend_heads(inputs: AttentionInputs) -> jax.Array:
    """`reference` with keys [B, N, K, S] and values [B, N, S, K], as two products."""
    q, k, v, mask, sharding, softcap, bias, sinks = inputs
    (b, t, h, width), (n, s) = q.shape, v.shape[1:3]
    group, length = h // n, sharding.length
    visible, dtype = mask.dense(t, s), q.dtype
    if mesh.platform() == "cpu":
        # XLA's CPU backend refuses batched bfloat16 products of some small shapes; others are slow.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    split = mesh.out_sharding("batch", length, "kv_heads", None, None)
    q = q.reshape(b, t, n, group, width, out_sharding=split).transpose(0, 2, 3, 1, 4)
    # Decoding drops the axis of length 1; in training it stays, since it may be split.
    step = t == 1 and length is None
    if step:
        scores = einsum("bngk,bnks->bngs", q[:, :, :, 0], k)[:, :, :, None] * width**-0.5
    else:
        scores = einsum("bngtk,bnks->bngts", q, k) * width**-0.5
    scores = soft_cap(scores, softcap)
    if bias is not None:
        batch = None if bias.shape[0] == 1 else "batch"  # b may be symbolic
        spec = mesh.out_sharding(batch, "kv_heads", None, length, None)
        scores = scores + bias.reshape(bias.shape[0], n, group, t, s, out_sharding=spec)
    if sinks is not None:
        spec = mesh.out_sharding("batch", "kv_heads", None)
        sinks = sinks.reshape(b, n, group, out_sharding=spec)
    weights = softmax(scores, visible, sinks).astype(v.dtype)
    if step:
        out = einsum("bngs,bnsk->bngk", weights[:, :, :, 0], v)[:, :, :, None]
    else:
        out = einsum("bngts,bnsk->bngtk", weights, v)
    out = out.astype(dtype).transpose(0, 3, 1, 2, 4)
    return out.reshape(b, t, h, v.shape[-1], out_sharding=mesh.out_sharding(*sharding.heads()))


def softmax(
    scores: jax.Array, visible: jax.Array | None, sinks: jax.Array | None = None
) -> jax.Array:
    """Softmax over the last axis of [B, N, G, T, S]; rows with nothing visible are zero.

    Sinks, [B, N, G], are scores besides these, whose shares are left out.
    """
    if visible is not None:
        visible = visible[:, None, None]
        scores = jnp.where(visible, scores, HIDDEN)
    top = scores.max(-1, keepdims=True)
    if sinks is not None:
        sinks = sinks[..., None, None]
        top = jnp.maximum(top, sinks)
    top = jax.lax.stop_gradient(top)
    exp_scores = jnp.exp(scores - top)
    if visible is not None:
        exp_scores = jnp.where(visible, exp_scores, 0.0)
    total = exp_scores.sum(-1, keepdims=True)
    total = total if sinks is None else total + jnp.exp(sinks - top)
    return exp_scores / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
