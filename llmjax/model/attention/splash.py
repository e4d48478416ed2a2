"""Splash attention, JAX's Pallas kernel for TPUs."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from llmjax.model.attention.fused import SINK_AXES, axes_of
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.compute import ATTENTION
from llmjax.model.layers import ActivationSharding
from llmjax.parallel import mesh

LONGEST = 2**16
"""Rows up to which the tables of visible blocks, which grow with the square of a row, are made
quickly and fit into a TPU's scalar memory."""
LANES = 128
"""Block sizes are multiples of this."""
QUERIES = 1024
"""Preferred queries of a block: keys and values are read once for each, so that the products do 4 x
this FLOPs per 4 bytes, more than any TPU needs to be busy (v6e: 575 FLOPs per byte)."""
SCORES = 512
"""Preferred keys whose scores with a block's queries exist at a time; 2 MiB of VMEM as float32."""
BALANCE = 350
"""Square of the backward pass's best block, by the number of keys; see `block_sizes`."""
MAX_KEYS = 4096
"""Keys of a block of the backward pass at most, of 128 wide heads, which fill 12 MiB of VMEM."""


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
    q, k, v, mask, sharding, softcap, _, sinks = inputs
    (_, t, h, width), s = q.shape, k.shape[1]
    queries, keys = mask.both_segments(t) or (None, None)
    kernel = _kernel(mask, softcap, (t, s, h, width), sharding)

    def local(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        queries: jax.Array | None,
        keys: jax.Array | None,
        sinks: jax.Array | None,
        kernel: kernels.SplashAttentionKernel,
    ) -> tuple[jax.Array]:
        ids = None
        if queries is not None and keys is not None:
            ids = kernels.SegmentIds(queries, keys)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        scaled = (q * width**-0.5).astype(q.dtype)
        each = (0, 0, 0, None if ids is None else 0, None if sinks is None else 0)
        out: Any = jax.vmap(kernel, in_axes=each)(scaled, k, v, ids, sinks)
        return (out.swapaxes(1, 2),)

    axes = axes_of(sharding)
    in_axes = (*axes.arrays(), *axes.segments(), SINK_AXES, _kernel_spec(kernel, sharding))
    run = mesh.per_device(local, in_axes, (axes.queries,))
    out = run(q, k, v, queries, keys, sinks, kernel)[0]
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
    return kernel.manual_sharding_spec(mesh.current_sharding("heads", sharding.length))


def _kernel(
    mask: Mask,
    softcap: float | None,
    sizes: tuple[int, int, int, int],
    sharding: ActivationSharding,
) -> kernels.SplashAttentionKernel:
    """The kernel for `sizes`: queries, keys, heads and their width."""
    t, s, heads, width = sizes
    window = None if mask.window is None else mask.window - 1
    if mask.causal and window is None:
        head_mask: masks.Mask = masks.CausalMask((t, s))
    elif window is not None:
        head_mask = masks.LocalMask((t, s), (window, 0 if mask.causal else window), 0)
    else:
        head_mask = masks.FullMask((t, s))
    if mesh.parts(sharding.length) > 1:  # as tables: a mask computed in the kernel cannot be split
        head_mask = masks.LogicalAnd(head_mask, masks.FullMask((t, s)))
    local = t // mesh.parts(sharding.length)
    return kernels.make_splash_mha(
        masks.MultiHeadMask([head_mask] * heads),
        block_sizes=block_sizes(local, s, width, mask.window),
        attn_logits_soft_cap=softcap,
        head_shards=mesh.shards("heads"),
        q_seq_shards=mesh.parts(sharding.length),
        residual_checkpoint_name=ATTENTION,
        interpret=mesh.platform() != "tpu",
    )


def block_sizes(queries: int, keys: int, width: int, window: int | None) -> kernels.BlockSizes:
    """The sizes of blocks: of this device's queries and all keys, of heads of this width.

    The backward pass is one kernel, which writes a part of the queries' gradient for each block of
    keys; the parts are added up afterwards. Of a larger block on the diagonal, the mask hides more
    scores. For 2 rows of 8192 and 32 heads on a v5e, a part takes 1.2 ms (the compiler's cycles),
    and all scores of the diagonal's blocks 28 ms x block / keys (at half of the peak), so that both
    cost the same at a block of 1700. Sizes are the powers of two around.
    """
    visible = keys if window is None else min(keys, max(window, SCORES))
    balanced = int(math.sqrt(2 * BALANCE * visible))  # sqrt(2): halfway to the next power of two
    rows, scores = _block(queries, QUERIES), _block(keys, SCORES)
    columns = _block(keys, min(balanced, MAX_KEYS * LANES // max(width, LANES)))
    return kernels.BlockSizes(
        block_q=rows,
        block_kv=_block(keys, QUERIES),
        block_kv_compute=scores,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_kv_dkv_compute=min(columns, scores),
        use_fused_bwd_kernel=True,
    )


def _block(length: int, limit: int) -> int:
    """The largest power of two, `LANES` at least and `limit` at most, that divides a length."""
    size = LANES
    while 2 * size <= limit and length % (2 * size) == 0:
        size *= 2
    return size
