"""Products with stored weights: every projection of the model is one of these.

Operands are in the compute dtype, sums in float32, and the weight's gradient comes out in float32
with the weight's own sharding. Written with its derivative because autodiff would transpose the
casts and the gather too: the gradient would be rounded to bfloat16 before it is summed over
devices, gathered weights would be kept for the backward pass, and the transposed products would
leave the fast path of CPUs (bfloat16 operands with a float32 result).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes


def dense(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    axes: Axes,
    out: Axes,
    dtype: str,
    result: str | None = None,
) -> jax.Array:
    """x @ kernel + bias.

    Args:
      x: [B, L, *inner].
      kernel: [*inner, *outer], stored (float32, "embed" split).
      bias: [*outer] or None.
      axes: logical axes of the kernel as stored.
      out: logical axes of the result.
      dtype: of the operands; sums are float32.
      result: dtype of the result, if not that of the operands.

    Returns:
      [B, L, *outer].
    """
    return _dense(x.astype(dtype), kernel, bias, axes, out, (dtype, result or dtype))


def gathered(axes: Axes) -> Axes:
    """The axes of a weight in use: split over heads, width or vocabulary, but not over "embed"."""
    return tuple("gathered" if axis == "embed" else axis for axis in axes)


def gather(weight: jax.Array, axes: Axes, dtype: str) -> jax.Array:
    """A stored weight, made ready for use: cast first, so that fewer bytes travel."""
    return mesh.reshard(weight.astype(dtype), *gathered(axes))


def dot(
    a: jax.Array,
    b: jax.Array,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    spec: jax.sharding.PartitionSpec | None,
) -> jax.Array:
    """`dot_general` without batch dimensions, summed in float32; float32 operands stay float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), exact, preferred_element_type=jnp.float32, out_sharding=spec
    )


def einsum(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """A product of two activations, summed in float32; float32 operands stay float32."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(formula, a, b, precision=exact, preferred_element_type=jnp.float32)


Dtypes = tuple[str, str]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _dense(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, axes: Axes, out: Axes, dtypes: Dtypes
) -> jax.Array:
    inner = x.ndim - 2
    over = (tuple(range(2, x.ndim)), tuple(range(inner)))
    lone = x.shape[:2] == (1, 1) and x.dtype == jnp.bfloat16 and mesh.platform() == "cpu"
    # A CPU takes eight times as long for one bfloat16 row as for two.
    two = jnp.broadcast_to(x, (2, *x.shape[1:])) if lone else x
    y = dot(two, gather(kernel, axes, dtypes[0]), over, mesh.out_sharding(*out))
    y = y[:1] if lone else y
    return (y if bias is None else y + bias).astype(dtypes[1])


def _dense_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, axes: Axes, out: Axes, dtypes: Dtypes
) -> tuple[jax.Array, tuple]:
    return _dense(x, kernel, bias, axes, out, dtypes), (x, kernel, bias)


def _dense_backward(axes: Axes, out: Axes, dtypes: Dtypes, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel, bias = saved
    dbias = None if bias is None else dy.astype(jnp.float32).sum((0, 1)).astype(bias.dtype)
    dy = dy.astype(x.dtype)
    over = (tuple(range(2, dy.ndim)), tuple(range(x.ndim - 2, kernel.ndim)))
    spec = mesh.spec_of(x)
    dx = dot(dy, gather(kernel, axes, dtypes[0]), over, spec).astype(x.dtype)
    return dx, weight_gradient(x, dy, 2, axes).astype(kernel.dtype), dbias


def weight_gradient(x: jax.Array, dy: jax.Array, rows: int, axes: Axes | None = None) -> jax.Array:
    """The sum over rows of x's outer product with dy.

    A CPU multiplies faster with the narrower operand on the left; the barrier keeps XLA from
    turning the product round again.

    Args:
      x: [*rows, *inner].
      dy: [*rows, *outer].
      rows: how many leading dimensions are summed over.
      axes: logical axes of the result; None inside `mesh.per_device`.

    Returns:
      [*inner, *outer] float32.
    """
    inner, outer = x.ndim - rows, dy.ndim - rows
    over = (tuple(range(rows)),) * 2

    def laid(axes: Axes | None) -> jax.sharding.PartitionSpec | None:
        return None if axes is None else mesh.out_sharding(*axes)

    if mesh.platform() != "cpu" or math.prod(x.shape[rows:]) <= math.prod(dy.shape[rows:]):
        return dot(x, dy, over, laid(axes))
    turned = None if axes is None else (*axes[inner:], *axes[:inner])
    swapped = jax.lax.optimization_barrier(dot(dy, x, over, laid(turned)))
    return swapped.transpose(*range(outer, outer + inner), *range(outer))


_dense.defvjp(_dense_forward, _dense_backward)
