"""cuDNN's flash attention, on NVIDIA."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.parallel import mesh

KEYS = ("batch", None, "kv_heads", "head_dim")
MASK_BYTES = 2**30
"""cuDNN takes segments as a [B, T, S] bias; on one device it may take this much memory."""


def suits(inputs: AttentionInputs) -> bool:
    """Whether cuDNN's flash attention computes this.

    On Ampere or later, half precision, heads up to 128 wide, no soft-cap, rows of even length and
    whole on each device; segments, and a window that is not causal, while their mask is of bearable
    size.
    """
    q, k, _, mask = inputs[:4]
    (b, t, _, width), s = q.shape, k.shape[1]
    masked = mask.key_segments is not None or (mask.window is not None and not mask.causal)
    size = 2 * b * t * s // mesh.parts("batch")
    return (
        _has_kernels()
        and q.dtype == jnp.bfloat16
        and width % 8 == 0
        and width <= 128
        and inputs.softcap is None
        and mask.index is None
        and mesh.parts("length") == 1
        and t % 2 == 0
        and s % 2 == 0
        and not (masked and size > MASK_BYTES)
    )


def _has_kernels() -> bool:
    """Whether the GPUs here can run it: NVIDIA's, of compute capability 8.0 (Ampere) or later.

    AMD's name an architecture instead. A GPU that is compiled for without being here, is taken to.
    """
    if jax.default_backend() != "gpu":
        return True
    major = str(getattr(jax.local_devices()[0], "compute_capability", "")).partition(".")[0]
    return major.isdigit() and int(major) >= 8


def is_forward(primitive: Any, *_: Any, **__: Any) -> bool:
    """Remat policy: keeps what the forward kernel leaves for the backward one.

    It has no checkpoint name. Without this, the forward kernel would run once more.
    """
    return str(primitive.name).startswith("dot_product_attention_fwd")


def cudnn(inputs: AttentionInputs, implementation: Literal["cudnn", "xla"] = "cudnn") -> jax.Array:
    """As `attention.reference`, where `suits`; "xla" computes the same anywhere, for tests."""
    q, k, v, mask, sharding = inputs[:5]
    causal, window = mask.causal, mask.window
    near = (window - 1, 0) if causal and window is not None else None
    masked = None if causal else window  # cuDNN has no window ahead: that becomes part of its mask

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        queries: jax.Array | None,
        keys: jax.Array | None,
    ) -> tuple[jax.Array]:
        seen = Mask(queries, keys, None, False, masked).dense(q.shape[1], k.shape[1])
        if seen is not None:
            seen = jnp.broadcast_to(seen, (len(q), *seen.shape[1:]))
        out = jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=None if seen is None else seen[:, None],
            is_causal=causal,
            local_window_size=near,
            implementation=implementation,
        )
        # Its mask is a large bias: where nothing is seen, everything would be.
        return (out if seen is None else jnp.where(_any(seen, mask)[..., None, None], out, 0),)

    heads, rows = sharding.heads(), ("batch", sharding.length)
    run = mesh.per_device(local, (heads, KEYS, KEYS, rows, ("batch", None)), (heads,))
    return run(q, k, v, mask.query_segments, mask.key_segments)[0]


def _any(seen: jax.Array, mask: Mask) -> jax.Array:
    """[B, T]: whether a query sees any key at all."""
    if mask.causal:
        rows = Mask(causal=True, window=mask.window).dense(*seen.shape[1:])
        seen = seen if rows is None else seen & rows
    return seen.any(-1)
