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
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from llmjax.model.attention import fused, gpus
from llmjax.model.attention import triton_kernels as kernels
from llmjax.model.attention.mask import AttentionInputs, BlockRules, MaskArrays
from llmjax.model.attention.ranges import block_ranges
from llmjax.model.attention.widths import widest
from llmjax.parallel import mesh

WIDEST = 256
"""Width of a head up to which its blocks fit into a GPU's shared memory."""
LARGE = 128 * 128
"""Results of a block from which 8 warps, of 32 threads each, compute it, and not 4. Heads narrower
than 128 count as 128, since scores take registers too."""
SMALLEST = 16
"""The smallest block of a product in Triton."""


class Sizes(NamedTuple):
    """How a kernel is cut into blocks and compiled, for heads up to 128 wide.

    At 128, no register is spilled on an H100, and a block takes 131 kB of shared memory.
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
        and widest(inputs) <= WIDEST
        and mask.index is None
        and mesh.parts(inputs.sharding.length) == 1
        and q.shape[1] % SMALLEST == 0
        and k.shape[1] % SMALLEST == 0
    )


def flash(inputs: AttentionInputs) -> jax.Array:
    """As `attention.reference`, if supported; interpreted on other platforms, for tests."""
    q, k, v, mask = inputs[:4]
    arrays = MaskArrays(None, mask.query_segments, mask.key_segments)
    return fused.attend(q, k, v, arrays, inputs.sinks, inputs.rules(SMALLEST), TRITON)


@partial(jax.jit, static_argnames="rules")
def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: MaskArrays, rules: BlockRules
) -> tuple[jax.Array, jax.Array]:
    # Where the layer is recomputed, JAX drops unused calls of jitted functions, not of kernels.
    outputs = (jax.typeof(q), _rows(q))
    out, lse = _by_query_blocks(kernels.forward, FORWARD, (q, k, v), mask, (), outputs, rules)
    return out, lse


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
) -> tuple[jax.Array, ...]:
    arrays, sums = (q, k, v), (dout, *saved)
    (dq,) = _by_query_blocks(
        kernels.by_queries, BY_QUERIES, arrays, mask, sums, (jax.typeof(q),), rules
    )
    return dq, *_gradients_by_keys(arrays, mask, sums, rules)


TRITON = fused.Implementation(_forward, _backward, nats=math.log(2))


def _by_query_blocks(
    kernel: Callable,
    sizes: Sizes,
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    mask: MaskArrays,
    sums: tuple[jax.Array, ...],
    outputs: tuple[Any, ...],
    rules: BlockRules,
) -> Sequence[jax.Array]:
    """Runs a kernel for each block of queries.

    Args:
      kernel: of `kernels`.
      sizes: how it is cut into blocks.
      arrays: queries, keys and values.
      mask: segments.
      sums: further inputs, [B, T, H, K] or [B, H, T].
      outputs: shapes and dtypes, as those of `sums`.
      rules: of the mask, and the soft-cap.
    """
    q, k, v = arrays
    tiles = sizes.fit(q, k, rules)
    shared, padded = q.shape[2] // k.shape[2], tiles.padded
    ranges, _ = block_ranges(tiles, q.shape[1], k.shape[1], mask.query_segments, mask.key_segments)
    row = pl.BlockSpec((None, None, tiles.rows), lambda i, h, b: (b, h, i))

    def spec(x: Any) -> pl.BlockSpec:
        return _block(tiles.rows, padded) if len(x.shape) == 4 else row

    return _launch(
        kernel,
        tiles,
        (q.shape[1] // tiles.rows, q.shape[2], len(q)),
        [
            (ranges, _range(ranges)),
            (q, spec(q)),
            *((x, _whole(x, padded, None, shared)) for x in (k, v)),
            *((ids, _ids(ids)) for ids in (mask.query_segments, mask.key_segments)),
            *((x, spec(x)) for x in sums),
        ],
        [(x, spec(x)) for x in outputs],
        sizes.stages,
        tiles.rows,
    )


def _gradients_by_keys(
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    mask: MaskArrays,
    sums: tuple[jax.Array, ...],
    rules: BlockRules,
) -> Sequence[jax.Array]:
    """Gradients by k and v, for each block of keys.

    Args:
      arrays: queries, keys and values.
      mask: segments.
      sums: the gradient by the output, the log-sum-exp, and the output times its gradient.
      rules: of the mask, and the soft-cap.
    """
    q, k, v = arrays
    tiles = BY_KEYS.fit(q, k, rules)
    shared, padded = q.shape[2] // k.shape[2], tiles.padded
    _, ranges = block_ranges(tiles, q.shape[1], k.shape[1], mask.query_segments, mask.key_segments)
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
            *((ids, _ids(ids)) for ids in (mask.query_segments, mask.key_segments)),
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
    warps = 8 if tokens * max(tiles.padded, 128) >= LARGE else 4
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
