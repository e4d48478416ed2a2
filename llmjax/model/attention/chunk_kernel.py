"""Attention of a chunk of queries to a chunk of keys, as Pallas kernels for TPUs.

A ring merges the results of many pairs of chunks, and takes their gradients with the log-sum-exp
over all, which splash attention's interface does not offer. These kernels know where the chunks are
in the row by one number, the distance from the first key to the first query, so that one program
serves all devices and steps. Scores are computed transposed, keys by queries, so that maxima and
sums over keys are rows; the backward pass is one kernel, with the gradients of a head's queries in
VMEM (FlashAttention-2, arXiv:2307.08691).
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from llmjax.model.attention.mask import HIDDEN, BlockRules, visible
from llmjax.model.softcap import soft_cap, soft_cap_gradient
from llmjax.parallel import mesh

LANES = 128
"""Blocks are multiples of this."""
BLOCK = 512
"""Preferred block size."""
VMEM_BYTES = 64 << 20
"""Limit of the kernels' VMEM; v5e, v5p and v6e have about twice this or more."""


Semantics = Literal["parallel", "arbitrary"]
Segments = tuple[jax.Array, jax.Array]
"""Segments of the queries and of the keys, [B, C] each."""


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    distance: jax.Array,
    segments: Segments | None,
    rules: BlockRules,
) -> tuple[jax.Array, jax.Array]:
    """Attends to the keys of one chunk.

    Args:
      q: [B, C, H, K], where C is a multiple of 128.
      k: [B, C, N, K].
      v: as k.
      distance: int32 [], the first query's index less the first key's.
      segments: as in `Mask`; None: all queries may see all keys.
      rules: causality, window and soft-cap.

    Returns:
      The output [B, C, H, K] float32, zeros where a query sees nothing, and the log-sum-exp of the
      scores [B, H, C] float32, about HIDDEN there.
    """
    (b, size, heads, width), block = q.shape, _block(q.shape[1])
    call = _Call(q, k, block, segments, rules)
    out, lse = pl.pallas_call(
        partial(_forward_kernel, call=call.static()),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, heads, size // block, size // block),
            in_specs=call.specs(queries=2, keys=3),
            out_specs=[
                pl.BlockSpec((1, 1, width, block), lambda b, h, i, j, _: (b, h, 0, i)),
                pl.BlockSpec((1, 1, 1, block), lambda b, h, i, j, _: (b, h, 0, i)),
            ],
            scratch_shapes=[
                pltpu.VMEM((1, block), jnp.float32),
                pltpu.VMEM((1, block), jnp.float32),
                pltpu.VMEM((width, block), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((b, heads, width, size), jnp.float32),
            jax.ShapeDtypeStruct((b, heads, 1, size), jnp.float32),
        ],
        compiler_params=_params(),
        interpret=mesh.platform() != "tpu",
        name="chunk_attention_forward",
    )(distance[None], *call.arrays(q, k, v))
    return out.transpose(0, 3, 1, 2), lse[:, :, 0]


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    distance: jax.Array,
    segments: Segments | None,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients by the queries, keys and values of a pair of chunks, float32.

    Args:
      q: as for `forward`, where C is at most `ring.LONGEST`.
      k: as for `forward`.
      v: as for `forward`.
      distance: as for `forward`.
      segments: as for `forward`.
      saved: the log-sum-exp over all keys that the queries see, in this chunk or others, and the
        sums of their outputs times `dout`; [B, H, C] float32 each.
      dout: [B, C, H, K], the gradient by the output.
      rules: as for `forward`.
    """
    (b, size, heads, width), block = q.shape, _block(q.shape[1])
    call = _Call(q, k, block, segments, rules)
    whole = pl.BlockSpec((1, 1, size, width), lambda b, h, j, i, _: (b, h, 0, 0))
    part = pl.BlockSpec((1, 1, block, width), lambda b, h, j, i, _: (b, h, j, 0))
    row = pl.BlockSpec((1, 1, 1, block), lambda b, h, j, i, _: (b, h, 0, i))
    specs = [
        pl.BlockSpec((1, 1, block, width), lambda b, h, j, i, _: (b, h, i, 0)),
        row,
        row,
        *call.specs(queries=3, keys=2),
    ]
    arrays = (dout.astype(v.dtype).swapaxes(1, 2), *(x[:, :, None] for x in saved))
    dq, dk, dv = pl.pallas_call(
        partial(_backward_kernel, call=call.static()),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(b, heads, size // block, size // block),
            in_specs=specs,
            out_specs=[whole, part, part],
            scratch_shapes=[pltpu.VMEM((block, width), jnp.float32)] * 2,
        ),
        out_shape=[jax.ShapeDtypeStruct((b, heads, size, width), jnp.float32)] * 3,
        compiler_params=_params(),
        interpret=mesh.platform() != "tpu",
        name="chunk_attention_backward",
    )(distance[None], *arrays, *call.arrays(q, k, v))
    dk, dv = (x.reshape(b, k.shape[2], -1, size, width).sum(2) for x in (dk, dv))
    return dq.swapaxes(1, 2) * width**-0.5, dk.swapaxes(1, 2), dv.swapaxes(1, 2)


class _Static(NamedTuple):
    """What a kernel knows when it is compiled."""

    rules: BlockRules
    block: int
    segmented: bool


class _Call(NamedTuple):
    """A kernel's common inputs."""

    q: jax.Array
    k: jax.Array
    block: int
    segments: Segments | None
    rules: BlockRules

    def static(self) -> _Static:
        return _Static(self.rules, self.block, self.segments is not None)

    def arrays(self, q: jax.Array, k: jax.Array, v: jax.Array) -> list[jax.Array]:
        """Heads first, queries scaled; segments of queries as rows and of keys as columns."""
        scaled = (q * q.shape[-1] ** -0.5).astype(q.dtype)
        arrays = [x.swapaxes(1, 2) for x in (scaled, k, v)]
        if self.segments is not None:
            queries, keys = self.segments
            columns = jnp.broadcast_to(keys[..., None], (*keys.shape, LANES))
            arrays += [queries[:, None], columns]
        return arrays

    def specs(self, *, queries: int, keys: int) -> list[pl.BlockSpec]:
        """Blocks of `arrays`, where these axes of the grid are the blocks of queries and keys."""
        block, width, group = self.block, self.q.shape[3], self.q.shape[2] // self.k.shape[2]
        key = pl.BlockSpec((1, 1, block, width), lambda *g: (g[0], g[1] // group, g[keys], 0))
        specs = [pl.BlockSpec((1, 1, block, width), lambda *g: (g[0], g[1], g[queries], 0))]
        specs += [key, key]
        if self.segments is not None:
            specs.append(pl.BlockSpec((1, 1, block), lambda *g: (g[0], 0, g[queries])))
            specs.append(pl.BlockSpec((1, block, LANES), lambda *g: (g[0], g[keys], 0)))
        return specs


def _block(size: int) -> int:
    return next(n for n in (BLOCK, 256, LANES) if size % n == 0)


def _params() -> pltpu.CompilerParams:
    semantics: tuple[Semantics, ...] = ("parallel", "parallel", "arbitrary", "arbitrary")
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES)


def _scores(
    q: jax.Array, k: jax.Array, distance: jax.Array, segments: Any, call: _Static
) -> tuple[jax.Array, jax.Array | None]:
    """Scores [keys, queries] float32, and which of them are visible; None: all."""
    s = soft_cap(_dot(k, q, 1, 1), call.rules.softcap)
    apart = distance + _iota(s.shape, 1) - _iota(s.shape, 0)
    query, key = (segments[0][0], segments[1][0, :, :1]) if call.segmented else (None, None)
    return s, visible(apart, query, key, call.rules.causal, call.rules.window)


def _forward_kernel(distance_ref: Any, q: Any, k: Any, v: Any, *refs: Any, call: _Static) -> None:
    segments, (out, lse, top, total, acc) = refs[:-5], refs[-5:]
    i, j = pl.program_id(2), pl.program_id(3)
    distance = distance_ref[0] + (i - j) * call.block

    @pl.when(j == 0)
    def _start() -> None:
        top[...] = jnp.full_like(top, HIDDEN)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    @pl.when(call.rules.any_visible(distance, call.block))
    def _add() -> None:
        s, seen = _scores(q[0, 0], k[0, 0], distance, segments, call)
        s = _where(seen, s, HIDDEN)
        new_top = jnp.maximum(top[...], s.max(0, keepdims=True))
        p = _where(seen, jnp.exp(s - new_top), 0.0)
        scale = jnp.exp(top[...] - new_top)
        total[...] = total[...] * scale + p.sum(0, keepdims=True)
        acc[...] = acc[...] * scale + _dot(v[0, 0], p.astype(v.dtype), 0, 0)
        top[...] = new_top

    @pl.when(j == pl.num_programs(3) - 1)
    def _end() -> None:
        sums = jnp.where(total[...] == 0.0, 1.0, total[...])
        out[0, 0] = acc[...] / sums
        lse[0, 0] = top[...] + jnp.log(sums)


def _backward_kernel(
    distance_ref: Any,
    dout: Any,
    lse: Any,
    delta: Any,
    q: Any,
    k: Any,
    v: Any,
    *refs: Any,
    call: _Static,
) -> None:
    segments, (dq, dk, dv, dk_sum, dv_sum) = refs[:-5], refs[-5:]
    j, i = pl.program_id(2), pl.program_id(3)
    distance = distance_ref[0] + (i - j) * call.block

    @pl.when((i == 0) & (j == 0))
    def _start() -> None:
        dq[...] = jnp.zeros_like(dq)

    @pl.when(i == 0)
    def _start_keys() -> None:
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    @pl.when(call.rules.any_visible(distance, call.block))
    def _add() -> None:
        s, seen = _scores(q[0, 0], k[0, 0], distance, segments, call)
        p = _where(seen, jnp.exp(s - lse[0, 0]), 0.0)
        ds = p * (_dot(v[0, 0], dout[0, 0], 1, 1) - delta[0, 0])
        ds = soft_cap_gradient(ds, s, call.rules.softcap)
        ds, p = ds.astype(q.dtype), p.astype(v.dtype)
        dv_sum[...] += _dot(p, dout[0, 0], 1, 0)
        dk_sum[...] += _dot(ds, q[0, 0], 1, 0)
        rows = pl.ds(pl.multiple_of(i * call.block, call.block), call.block)
        dq[0, 0, rows, :] += _dot(ds, k[0, 0], 0, 0)

    @pl.when(i == pl.num_programs(3) - 1)
    def _end() -> None:
        dk[0, 0] = dk_sum[...]
        dv[0, 0] = dv_sum[...]


def _dot(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((over_a,), (over_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision, preferred_element_type=jnp.float32)


def _iota(shape: tuple[int, ...], axis: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)


def _where(seen: jax.Array | None, x: jax.Array, otherwise: float) -> jax.Array:
    return x if seen is None else jnp.where(seen, x, otherwise)
