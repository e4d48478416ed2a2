"""The product of a single row with a weight on one CPU device, at the speed of its memory.

XLA's CPU compiler multiplies a row by float32 weights alone: it converts others whole, and its
library for products packs them at each call. A sum of a few terms it unrolls in one loop, which
converts, multiplies and adds what it reads, vectorized over neighbours in memory. A product is
therefore computed as sums of such groups, and a second product adds them up.
"""

import math

import jax
import jax.numpy as jnp

MAX_GROUP = 18
"""Terms up to which a sum is unrolled."""

MIN_GROUP = 8
"""With fewer terms, the second product would be as large as the first."""


def group_size(size: int) -> int | None:
    """Terms of the groups in a sum of `size` terms; None if no size divides it."""
    groups = range(MAX_GROUP, MIN_GROUP - 1, -1)
    return next((group for group in groups if size % group == 0), None)


def row_product(x: jax.Array, weight: jax.Array, inner: tuple[int, ...], group: int) -> jax.Array:
    """Product of a row with a weight that is not split, summed in float32.

    Args:
      x: [*inner], of any float dtype.
      weight: of any float or integer dtype.
      inner: the dimensions of the weight that are summed over: its first or its last.
      group: from `group_size`.

    Returns:
      [*outer], float32.
    """
    outer = tuple(size for axis, size in enumerate(weight.shape) if axis not in inner)
    # Without the barrier, a loop over tokens would have the weight converted whole ahead of it.
    x, weight = jax.lax.optimization_barrier((x, weight))
    groups, x = math.prod(x.shape) // group, x.astype(jnp.float32)
    # The terms of a group lie far apart: each is read as a stream of its own.
    if inner[0] == 0:
        terms = weight.reshape(group, groups, -1).astype(jnp.float32) * x.reshape(group, groups, 1)
        y = _product(jnp.ones(groups), _sum(terms, 0))
    else:
        terms = weight.reshape(-1, group, groups).astype(jnp.float32) * x.reshape(group, groups)
        y = _product(_sum(terms, 1), jnp.ones(groups))
    return y.reshape(outer)


def _sum(terms: jax.Array, axis: int) -> jax.Array:
    # The library takes a + b, but not what computes its terms, which would be written out whole.
    sums = jax.lax.reduce(terms, jnp.float32(0), lambda a, b: a - (-b), (axis,))
    return jax.lax.optimization_barrier(sums)  # else the second sum would be merged into this one


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
