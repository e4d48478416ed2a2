"""Flash attention for NVIDIA GPUs by our own kernels, which JAX compiles with Triton.

Unlike cuDNN's as JAX offers it, it takes packed rows, soft-caps and windows both ways without a
[T, S] bias, and computes only blocks of keys with documents of the block of queries. Key heads are
shared by their query heads, not repeated.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from llmjax.model.attention import gpus
from llmjax.model.attention import triton_kernels as kernels
from llmjax.model.attention.mask import AttentionInputs, BlockRules
from llmjax.model.attention.ranges import block_ranges
from llmjax.model.compute import ATTENTION
from llmjax.model.layers import ActivationSharding
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

WIDEST = 256
"""Width of a head up to which its blocks fit into a GPU's shared memory."""
LARGE = 128 * 128
"""Numbers in a block of results from which 8 warps, of 32 threads each, compute it, not 4."""
SMALLEST = 16
"""The smallest block of a product in Triton."""


class Sizes(NamedTuple):
    """How a kernel is cut into blocks and compiled, for heads up to 128 wide.

    No register is spilled then on an H100, and a block takes 131 kB of shared memory.
    """

    rows: int
    """Most queries of a block."""
    columns: int
    """Most keys of a block."""
    stages: int
    """Iterations of a loop that overlap."""

    def fit(self, q: jax.Array, k: jax.Array, rules: BlockRules) -> kernels.Tiles:
        """The blocks of an input: powers of 2 that divide its lengths."""
        width = q.shape[-1]
        parts = 1 if width <= 128 else 2
        parts *= 1 if gpus.has_large_shared_memory() else 2
        rows = math.gcd(q.shape[1], self.rows // parts)
        columns = math.gcd(k.shape[1], self.columns // parts)
        return kernels.Tiles(rules.causal, rules.window, rows, columns, rules.softcap, width)


FORWARD = Sizes(rows=128, columns=64, stages=3)
BY_QUERIES = Sizes(rows=128, columns=64, stages=2)
BY_KEYS = Sizes(rows=64, columns=128, stages=2)


def supports(inputs: AttentionInputs) -> bool:
    """Whether these kernels compute this: half precision, unsplit rows of full blocks in order."""
    q, k, _, mask = inputs[:4]
    return (
        gpus.has_flash()
        and q.dtype == jnp.bfloat16
        and q.shape[-1] <= WIDEST
        and mask.index is None
        and mesh.parts(inputs.sharding.length) == 1
        and q.shape[1] % SMALLEST == 0
        and k.shape[1] % SMALLEST == 0
    )


def flash(inputs: AttentionInputs) -> jax.Array:
    """As `attention.reference`, if supported; interpreted on other platforms, for tests."""
    q, k, v, mask = inputs[:4]
    return _flash(q, k, v, mask.query_segments, mask.key_segments, inputs.rules(SMALLEST))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _flash(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    rules: BlockRules,
) -> jax.Array:
    return _forward(q, k, v, query_segments, key_segments, rules)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    rules: BlockRules,
) -> tuple[jax.Array, tuple]:
    heads, keys, rows, all_rows, lse_axes = _axes(rules.sharding)
    axes = (heads, keys, keys, rows, all_rows)
    # Where the layer is recomputed, JAX drops unused calls of jitted functions, not of kernels.
    local = jax.jit(partial(_local_forward, rules=rules))
    run = mesh.per_device(local, axes, (heads, lse_axes))
    results = run(q, k, v, query_segments, key_segments)
    out, lse = (checkpoint_name(x, ATTENTION) for x in results)
    return out, (q, k, v, query_segments, key_segments, out, lse)


def _backward(rules: BlockRules, saved: tuple, dout: jax.Array) -> tuple:
    heads, keys, rows, all_rows, lse_axes = _axes(rules.sharding)
    axes = (heads, keys, keys, rows, all_rows, heads, lse_axes, heads)
    run = mesh.per_device(partial(_local_backward, rules=rules), axes, (heads, keys, keys))
    return *run(*saved, dout), None, None


_flash.defvjp(_forward, _backward)


def _axes(sharding: ActivationSharding) -> tuple[Axes, Axes, Axes, Axes, Axes]:
    """Logical axes of queries, of keys, of segments of both, of the log-sum-exp [B, H, T]."""
    keys = ("batch", None, "kv_heads", "head_dim")
    rows = ("batch", sharding.length)
    return sharding.heads(), keys, rows, ("batch", None), ("batch", "heads", sharding.length)


def _local_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    *,
    rules: BlockRules,
) -> tuple[jax.Array, jax.Array]:
    tiles = FORWARD.fit(q, k, rules)
    ranges, _ = block_ranges(tiles, q.shape[1], k.shape[1], query_segments, key_segments)
    segments = query_segments, key_segments
    shared, padded = q.shape[2] // k.shape[2], tiles.padded
    out, lse = _launch(
        kernels.forward,
        tiles,
        (q.shape[1] // tiles.rows, q.shape[2], len(q)),
        [
            (ranges, _range(ranges)),
            (q, _block(tiles.rows, padded)),
            (k, _whole(k, padded, None, shared)),
            (v, _whole(v, padded, None, shared)),
            *((ids, _ids(ids)) for ids in segments),
        ],
        [
            (jax.typeof(q), _block(tiles.rows, padded)),
            (_rows(q), pl.BlockSpec((None, None, tiles.rows), lambda i, h, b: (b, h, i))),
        ],
        FORWARD.stages,
        tiles.rows,
    )
    return out, lse


def _local_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    *,
    rules: BlockRules,
) -> tuple[jax.Array, ...]:
    delta = (out.astype(jnp.float32) * dout.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
    segments, sums = (query_segments, key_segments), (dout, lse, delta)
    dq = _gradient_by_queries(q, k, v, segments, sums, rules)
    return dq, *_gradients_by_keys(q, k, v, segments, sums, rules)


def _gradient_by_queries(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: tuple[jax.Array | None, jax.Array | None],
    sums: tuple[jax.Array, jax.Array, jax.Array],
    rules: BlockRules,
) -> jax.Array:
    """Gradient by q; `sums`: gradient by the output, log-sum-exp, output times its gradient."""
    tiles = BY_QUERIES.fit(q, k, rules)
    shared, padded = q.shape[2] // k.shape[2], tiles.padded
    ranges, _ = block_ranges(tiles, q.shape[1], k.shape[1], *segments)
    row = pl.BlockSpec((None, None, tiles.rows), lambda i, h, b: (b, h, i))
    specs = (_block(tiles.rows, padded), row, row)
    (dq,) = _launch(
        kernels.by_queries,
        tiles,
        (q.shape[1] // tiles.rows, q.shape[2], len(q)),
        [
            (ranges, _range(ranges)),
            (q, _block(tiles.rows, padded)),
            (k, _whole(k, padded, None, shared)),
            (v, _whole(v, padded, None, shared)),
            *((ids, _ids(ids)) for ids in segments),
            *zip(sums, specs, strict=True),
        ],
        [(jax.typeof(q), _block(tiles.rows, padded))],
        BY_QUERIES.stages,
        tiles.rows,
    )
    return dq


def _gradients_by_keys(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: tuple[jax.Array | None, jax.Array | None],
    sums: tuple[jax.Array, jax.Array, jax.Array],
    rules: BlockRules,
) -> Sequence[jax.Array]:
    """Gradients by k and v; arguments as of `_gradient_by_queries`."""
    tiles = BY_KEYS.fit(q, k, rules)
    shared, padded = q.shape[2] // k.shape[2], tiles.padded
    _, ranges = block_ranges(tiles, q.shape[1], k.shape[1], *segments)
    rows = pl.BlockSpec((None, shared, q.shape[1]), lambda i, h, b: (b, h, 0))
    specs = (_whole(q, padded, shared, 1), rows, rows)
    return _launch(
        kernels.by_keys,
        tiles,
        (k.shape[1] // tiles.columns, k.shape[2], len(k)),
        [
            (ranges, _range(ranges)),
            (q, _whole(q, padded, shared, 1)),
            (k, _block(tiles.columns, padded)),
            (v, _block(tiles.columns, padded)),
            *((ids, _ids(ids)) for ids in segments),
            *zip(sums, specs, strict=True),
        ],
        [(jax.typeof(x), _block(tiles.columns, padded)) for x in (k, v)],
        BY_KEYS.stages,
        tiles.columns,
    )


def _launch(
    kernel: Callable,
    tiles: kernels.Tiles,
    grid: tuple[int, int, int],
    inputs: list[tuple[jax.Array | None, pl.BlockSpec | None]],
    outputs: list[tuple[Any, pl.BlockSpec]],
    stages: int,
    tokens: int,
) -> Sequence[jax.Array]:
    """Runs a kernel for each block, head and row.

    Args:
      kernel: of `kernels`.
      tiles: its parameters.
      grid: number of blocks, heads and rows.
      inputs: arrays, and what each program sees of them.
      outputs: shapes and dtypes, and what each program writes of them.
      stages: iterations of a loop that overlap.
      tokens: for which a program computes results.
    """
    warps = 8 if tokens * tiles.padded >= LARGE else 4
    run = pl.pallas_call(
        partial(kernel, tiles=tiles),
        grid=grid,
        in_specs=[spec for _, spec in inputs],
        out_specs=[spec for _, spec in outputs],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x, _ in outputs],
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
        interpret=mesh.platform() != "gpu",
        name=f"attention_{kernel.__name__}",
    )
    return run(*(x for x, _ in inputs))


def _block(size: int, padded: int) -> pl.BlockSpec:
    """A block of a head's tokens, from [B, L, heads, K]."""
    return pl.BlockSpec((None, size, None, padded), lambda i, h, b: (b, i, h, 0))


def _whole(x: jax.Array, padded: int, heads: int | None, shared: int) -> pl.BlockSpec:
    """All tokens of a head that `shared` heads use, or of `heads` heads, of [B, L, heads, K]."""
    return pl.BlockSpec((None, x.shape[1], heads, padded), lambda i, h, b: (b, 0, h // shared, 0))


def _ids(segments: jax.Array | None) -> pl.BlockSpec | None:
    """All segments of a row, from [B, L]."""
    if segments is None:
        return None
    return pl.BlockSpec((None, segments.shape[1]), lambda i, h, b: (b, 0))


def _range(ranges: jax.Array) -> pl.BlockSpec:
    """The range of a block, from [B or 1, blocks, 4]."""
    each = len(ranges) > 1
    return pl.BlockSpec((None, None, 4), lambda i, h, b: (b if each else 0, i, 0))


def _rows(q: jax.Array) -> jax.ShapeDtypeStruct:
    """A number for each query of each head, [B, H, T]."""
    b, t, h, _ = q.shape
    return jax.ShapeDtypeStruct((b, h, t), jnp.float32)
