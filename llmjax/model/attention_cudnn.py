"""cuDNN's flash attention, on NVIDIA."""

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.model.layers import Layout
from llmjax.model.mask import Mask

KEYS = ("batch", None, "kv_heads", "head_dim")
MASK_BYTES = 2**30
"""cuDNN takes segments as a [B, T, S] bias; on one device it may take this much memory."""


def suits(q: jax.Array, k: jax.Array, mask: Mask, softcap: float | None) -> bool:
    """Whether cuDNN's flash attention computes this.

    Half precision, heads up to 128 wide, no soft-cap, rows whole on each device; a window only
    where it is causal; segments while their mask is of bearable size.
    """
    b, t, _, width = q.shape
    masked = mask.key_segments is not None
    size = 2 * b * t * k.shape[1] // mesh.parts("batch")
    return (
        q.dtype == jnp.bfloat16
        and width % 8 == 0
        and width <= 128
        and softcap is None
        and mask.index is None
        and mesh.parts("length") == 1
        and (mask.causal or mask.window is None)
        and not (masked and (size > MASK_BYTES or t % 2 or k.shape[1] % 2))
    )


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, softcap: float | None, layout: Layout
) -> jax.Array:
    """As `attention.reference`, where `suits`."""
    del softcap
    window = None if mask.window is None else (mask.window - 1, 0)

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        queries: jax.Array | None,
        keys: jax.Array | None,
    ) -> tuple[jax.Array]:
        seen = Mask(queries, keys, causal=False).dense(q.shape[1], k.shape[1])
        out = jax.nn.dot_product_attention(
            q,
            k,
            v,
            mask=None if seen is None else seen[:, None],
            is_causal=mask.causal,
            local_window_size=window,
            implementation="cudnn",
        )
        # Its mask is a large bias: where nothing is seen, everything would be.
        return (out if seen is None else jnp.where(_any(seen, mask)[..., None, None], out, 0),)

    heads, rows = layout.heads(), ("batch", layout.length)
    run = mesh.per_device(local, (heads, KEYS, KEYS, rows, ("batch", None)), (heads,))
    return run(q, k, v, mask.query_segments, mask.key_segments)[0]


def _any(seen: jax.Array, mask: Mask) -> jax.Array:
    """[B, T]: whether a query sees any key at all."""
    if mask.causal:
        rows = Mask(causal=True, window=mask.window).dense(*seen.shape[1:])
        seen = seen if rows is None else seen & rows
    return seen.any(-1)
