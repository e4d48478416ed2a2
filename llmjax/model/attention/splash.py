"""Splash attention, JAX's Pallas kernel for TPUs."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.layers import ATTENTION, ActivationSharding
from llmjax.parallel import mesh

KEYS = ("batch", None, "kv_heads", "head_dim")
LANES = 128
"""Block sizes are multiples of this."""
BLOCK = 512
"""Preferred block size."""


def supports(inputs: AttentionInputs) -> bool:
    """Whether splash attention computes this: rows of full blocks, queries in order.

    Attention without a mask cannot be split along the length, since its tables would be empty.
    """
    q, k, _, mask = inputs[:4]
    split = mesh.parts(inputs.sharding.length)
    full_blocks = q.shape[1] % (LANES * split) == 0 and k.shape[1] % LANES == 0
    masked = mask.causal or mask.window is not None
    return full_blocks and mask.index is None and (masked or split == 1)


def splash(inputs: AttentionInputs) -> jax.Array:
    """As `attention.reference`, if supported; interpreted on other platforms, for tests."""
    q, k, v, mask, sharding, softcap, _ = inputs
    (b, t, h, width), s = q.shape, k.shape[1]
    queries, keys = mask.query_segments, mask.key_segments
    if keys is not None and queries is None:  # all keys but padding are visible
        queries, keys = jnp.ones((b, t), jnp.int32), (keys != 0).astype(jnp.int32)
    kernel = _kernel(mask, softcap, t, s, h, sharding)

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        queries: jax.Array | None,
        keys: jax.Array | None,
        kernel: kernels.SplashAttentionKernel,
    ) -> tuple[jax.Array]:
        ids = None
        if queries is not None and keys is not None:
            ids = kernels.SegmentIds(queries, keys)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        scaled = (q * width**-0.5).astype(q.dtype)
        out: Any = jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(
            scaled, k, v, ids
        )
        return (out.swapaxes(1, 2),)

    heads, rows = sharding.heads(), ("batch", sharding.length)
    axes = (heads, KEYS, KEYS, rows, ("batch", None), _kernel_spec(kernel, sharding))
    out = mesh.per_device(local, axes, (heads,))(q, k, v, queries, keys, kernel)[0]
    if queries is None or keys is None:
        return out
    real = queries != 0  # in the kernel, padding sees padding
    if not mask.causal:  # and a query without keys of its segment sees all of them
        keys = mesh.reshard(keys, "batch", None)
        real &= (queries[:, :, None] == keys[:, None, :]).any(-1)
    return jnp.where(real[..., None, None], out, 0)


def _kernel_spec(kernel: kernels.SplashAttentionKernel, sharding: ActivationSharding) -> Any:
    """Partitions of the kernel's tables, as a tree; None without a mesh."""
    if not mesh.has_shardings():
        return None
    devices, spec = jax.sharding.get_abstract_mesh(), mesh.logical_spec("heads", sharding.length)
    return kernel.manual_sharding_spec(jax.sharding.NamedSharding(devices, spec))


def _kernel(
    mask: Mask, softcap: float | None, t: int, s: int, heads: int, sharding: ActivationSharding
) -> kernels.SplashAttentionKernel:
    window = None if mask.window is None else mask.window - 1
    if mask.causal and window is None:
        head_mask: masks.Mask = masks.CausalMask((t, s))
    elif window is not None:
        head_mask = masks.LocalMask((t, s), (window, 0 if mask.causal else window), 0)
    else:
        head_mask = masks.FullMask((t, s))
    if mesh.parts(sharding.length) > 1:  # as tables: a mask computed in the kernel cannot be split
        head_mask = masks.LogicalAnd(head_mask, masks.FullMask((t, s)))
    rows = next(n for n in (BLOCK, 256, LANES) if t // mesh.parts(sharding.length) % n == 0)
    columns = next(n for n in (BLOCK, 256, LANES) if s % n == 0)
    sizes = kernels.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    return kernels.make_splash_mha(
        masks.MultiHeadMask([head_mask] * heads),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap,
        head_shards=mesh.shards("heads"),
        q_seq_shards=mesh.parts(sharding.length),
        residual_checkpoint_name=ATTENTION,
        interpret=mesh.platform() != "tpu",
    )
