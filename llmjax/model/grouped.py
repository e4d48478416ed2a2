"""Products of rows with the matrix of their group: what a mixture of experts consists of.

Rows are sorted by group, and the number of rows of each group is known on the device only. Neither
product multiplies a row by the matrices of other groups.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.parallel import mesh

Implementation = Literal["blocks", "ragged"]

TILE = 512
"""Rows and columns of a tile of Megablox's kernel."""

SMALLEST, LARGEST = 8, 256
"""Rows of a block."""


def implementation() -> Implementation:
    """What is fastest on the platform: a CPU computes `jax.lax.ragged_dot` for all groups."""
    return "blocks" if mesh.platform() == "cpu" else "ragged"


def grouped_dot(
    rows: jax.Array,
    weights: jax.Array,
    sizes: jax.Array,
    *,
    transposed: bool = False,
    result: str = "float32",
) -> jax.Array:
    """Multiplies each row by the matrix of its group.

    Args:
      rows: [M, A], sorted by group.
      weights: [G, A, B], or [G, B, A] if transposed; of the dtype of the rows.
      sizes: int32 [G], rows of each group; their sum is at most M.
      transposed: whether to multiply by the transposes.
      result: dtype of the result; sums are float32.

    Returns:
      [M, B]; zeros for rows of no group.
    """
    in_group = (jnp.arange(rows.shape[0]) < sizes.sum())[:, None]
    if implementation() == "blocks":
        width = weights.shape[1 if transposed else 2]
        found = _blocks_dot(rows, weights, sizes, width, transposed).astype(result)
        return jnp.where(in_group, found, 0)
    dimensions = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((1,), (2 if transposed else 1,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[0],
    )
    return jnp.where(in_group, _ragged(rows, weights, sizes, dimensions, result), 0)


def grouped_outer(
    rows: jax.Array, others: jax.Array, sizes: jax.Array, *, result: str = "float32"
) -> jax.Array:
    """Sums the outer products of two arrays' rows over each group.

    Args:
      rows: [M, A], sorted by group.
      others: [M, B], of the same dtype.
      sizes: int32 [G], as for `grouped_dot`.
      result: dtype of the result; sums are float32.

    Returns:
      [G, A, B].
    """
    if implementation() == "blocks":
        return _blocks_outer(rows, others, sizes).astype(result)
    if mesh.platform() == "tpu" and rows.dtype == jnp.bfloat16:
        return megablox_outer(rows, others, sizes, result=result)
    dimensions = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    return _ragged(rows, others, sizes, dimensions, result)


def megablox_outer(
    rows: jax.Array,
    others: jax.Array,
    sizes: jax.Array,
    *,
    result: str = "float32",
    interpret: bool = False,
) -> jax.Array:
    """`grouped_outer` by Megablox's kernel, on a TPU or interpreted; its products are of bfloat16.

    The TPU compiler multiplies all rows for all groups here, though not in `grouped_dot`.
    """
    from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

    padding = ((0, -len(rows) % TILE), (0, 0))
    rows, others = jnp.pad(rows, padding), jnp.pad(others, padding)
    tiling = (TILE, min(TILE, rows.shape[1]), min(TILE, others.shape[1]))
    return tgmm(rows.T, others, sizes, jnp.dtype(result), tiling, interpret=interpret)


def _ragged(
    a: jax.Array,
    b: jax.Array,
    sizes: jax.Array,
    dimensions: jax.lax.RaggedDotDimensionNumbers,
    result: str,
) -> jax.Array:
    return jax.lax.ragged_dot_general(
        a, b, sizes, dimensions, precision=_precision(a), preferred_element_type=jnp.dtype(result)
    )


def _precision(x: jax.Array) -> jax.lax.Precision | None:
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


# Blocks are computed in the order of their rows. The last block of a group reaches into the rows of
# the next, which that one then overwrites.


class Block(NamedTuple):
    """Consecutive rows of a group."""

    group: jax.Array
    start: jax.Array
    """Its first row."""
    left: jax.Array
    """Rows that the group has from there."""


def _blocks_dot(
    rows: jax.Array, weights: jax.Array, sizes: jax.Array, width: int, transposed: bool
) -> jax.Array:
    count, precision = rows.shape[0], _precision(rows)
    size = _block_size(count, len(sizes))
    rows = jnp.pad(rows, ((0, size), (0, 0)))

    def multiply(block: Block, y: jax.Array) -> jax.Array:
        weight = jax.lax.dynamic_index_in_dim(weights, block.group, keepdims=False)
        part = jax.lax.dynamic_slice_in_dim(rows, block.start, size)
        contract = (((1,), (1 if transposed else 0,)), ((), ()))
        product = jax.lax.dot_general(
            part, weight, contract, precision, preferred_element_type=jnp.float32
        )
        return jax.lax.dynamic_update_slice_in_dim(y, product, block.start, 0)

    start = jnp.zeros((count + size, width), jnp.float32)
    return _over_blocks(multiply, sizes, size, start)[:count]


def _blocks_outer(rows: jax.Array, others: jax.Array, sizes: jax.Array) -> jax.Array:
    size, precision = _block_size(rows.shape[0], len(sizes)), _precision(rows)
    rows, others = (jnp.pad(x, ((0, size), (0, 0))) for x in (rows, others))

    def add(block: Block, sums: jax.Array) -> jax.Array:
        a, b = (jax.lax.dynamic_slice_in_dim(x, block.start, size) for x in (rows, others))
        a = jnp.where((jnp.arange(size) < block.left)[:, None], a, 0)
        product = jax.lax.dot_general(
            a, b, (((0,), (0,)), ((), ())), precision, preferred_element_type=jnp.float32
        )
        before = jax.lax.dynamic_index_in_dim(sums, block.group, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(sums, before + product, block.group, 0)

    sums = jnp.zeros((len(sizes), rows.shape[1], others.shape[1]), jnp.float32)
    return _over_blocks(add, sizes, size, sums)


def _over_blocks(
    step: Callable[[Block, jax.Array], jax.Array], sizes: jax.Array, size: int, carry: jax.Array
) -> jax.Array:
    """Runs step(block, carry) -> carry for each block of `size` rows, in order."""
    blocks = -(-sizes // size)
    last, starts = jnp.cumsum(blocks), jnp.cumsum(sizes) - sizes

    def body(index: jax.Array, carry: jax.Array) -> jax.Array:
        group = jnp.searchsorted(last, index, side="right", method="compare_all")
        done = (index - (last[group] - blocks[group])) * size
        return step(Block(group, starts[group] + done, sizes[group] - done), carry)

    return jax.lax.fori_loop(0, last[-1], body, carry)


def _block_size(rows: int, groups: int) -> int:
    """A power of two near a quarter of the rows of an average group, which wastes little; the
    smallest for a number of rows that is not known (in exported programs)."""
    if not isinstance(rows, int):
        return SMALLEST
    quarter = max(rows // (4 * groups), 1)
    return min(max(1 << (quarter.bit_length() - 1), SMALLEST), LARGEST)
