"""cuDNN's flash attention, for NVIDIA GPUs."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from llmjax.model.attention import gpus
from llmjax.model.attention.fused import axes_of
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.attention.widths import widest
from llmjax.parallel import mesh

MASK_BYTES = 2**30
"""Most memory per device of the [B, T, S] bias that cuDNN takes segments as."""


def supports(inputs: AttentionInputs) -> bool:
    """Whether cuDNN's flash attention computes this.

    It needs Ampere or later, half precision, heads up to 128 wide, no soft-cap or sinks, and
    unsplit rows of even length; segments, or a window that is not causal, need a mask within
    MASK_BYTES.
    """
    q, k, _, mask = inputs[:4]
    (b, t, *_), s, width = q.shape, k.shape[1], widest(inputs)
    size = 2 * b * t * s // mesh.shards("batch")
    return (
        gpus.has_flash()
        and q.dtype == jnp.bfloat16
        and width % 8 == 0
        and width <= 128
        and inputs.softcap is None
        and inputs.sinks is None
        and mask.index is None
        and mesh.parts(inputs.sharding.length) == 1
        and t % 2 == 0
        and s % 2 == 0
        and not (needs_bias(mask) and size > MASK_BYTES)
    )


def needs_bias(mask: Mask) -> bool:
    """Whether cuDNN takes this mask as a [B, T, S] bias."""
    return mask.key_segments is not None or (mask.window is not None and not mask.causal)


def is_forward(primitive: Any, *_: Any, **__: Any) -> bool:
    """Remat policy that keeps the residuals of the forward kernel, which have no checkpoint name.

    Without it, the backward pass would run the forward kernel again.
    """
    return str(primitive.name).startswith("dot_product_attention_fwd")


def cudnn(inputs: AttentionInputs, implementation: Literal["cudnn", "xla"] = "cudnn") -> jax.Array:
    """As `attention.reference`, if supported; "xla" computes the same anywhere, for tests."""
    q, k, v, mask, sharding = inputs[:5]
    causal, window = mask.causal, mask.window
    local_window = (window - 1, 0) if causal and window is not None else None
    mask_window = None if causal else window  # cuDNN has no window ahead: the mask contains it

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        queries: jax.Array | None,
        keys: jax.Array | None,
    ) -> tuple[jax.Array]:
        seen = Mask(queries, keys, None, False, mask_window).dense(q.shape[1], k.shape[1])
        if seen is not None:
            seen = jnp.broadcast_to(seen, (len(q), *seen.shape[1:]))
        out = jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=None if seen is None else seen[:, None],
            is_causal=causal,
            local_window_size=local_window,
            implementation=implementation,
        )
        # The mask is a large bias: queries without visible keys attend to all.
        if seen is None:
            return (out,)
        return (jnp.where(_sees_any(seen, mask)[..., None, None], out, 0),)

    axes = axes_of(sharding)
    run = mesh.per_device(local, (*axes.arrays(), *axes.segments()), (axes.queries,))
    return run(q, k, v, mask.query_segments, mask.key_segments)[0]


def _sees_any(seen: jax.Array, mask: Mask) -> jax.Array:
    """[B, T]: whether a query sees any key."""
    if mask.causal:
        rows = Mask(causal=True, window=mask.window).dense(*seen.shape[1:])
        seen = seen if rows is None else seen & rows
    return seen.any(-1)
