"""Products with stored weights, for every projection of the model.

Operands are in the compute dtype and a device's sums in float32; sums over devices are added in the
dtype that `reduced` says. The weight's gradient has the weight's dtype and sharding. The derivative
is custom because autodiff would transpose the casts and the gather too: gradients would always be
rounded to bfloat16 before the reduction over devices, gathered weights would be kept for the
backward pass, and the transposed products would miss the CPU's fast path (bfloat16 operands,
float32 result).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.compute import Precision
from llmjax.model.quantized import Quantized, Weight
from llmjax.model.row_products import group_size, row_product
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes


def dense(
    x: jax.Array,
    kernel: Weight,
    bias: jax.Array | None,
    *,
    axes: Axes,
    out: Axes,
    precision: Precision,
    result: str | None = None,
    transposed: bool = False,
) -> jax.Array:
    """x @ kernel + bias, or x @ kernel.T + bias.

    Args:
      x: [B, L, *inner].
      kernel: [*inner, *outer], stored (float32, "embed" split), or quantized, without derivative.
        [*outer, *inner] if transposed: a CPU would copy the transpose of a tied table.
      bias: [*outer] or None.
      axes: logical axes of the kernel as stored.
      out: logical axes of the result.
      precision: dtypes of the operands and of sums over devices.
      result: dtype of the result; None: that of the operands.
      transposed: whether the kernel's inner dimensions are its last.

    Returns:
      [B, L, *outer].
    """
    x = x.astype(precision.dtype)
    how = Product(precision, result or precision.dtype, transposed)
    return _dense(x, kernel, bias, axes, out, how)


def gathered(axes: Axes) -> Axes:
    """The axes of a gathered weight: split over heads, width, experts or vocabulary only."""
    return tuple("gathered" if axis in mesh.WEIGHT_AXES else axis for axis in axes)


def gather(weight: Weight, axes: Axes, dtype: str) -> jax.Array:
    """Casts and then gathers a stored weight, so that fewer bytes are transferred."""
    if isinstance(weight, Quantized):
        return weight.gather(gathered(axes)).widen(gathered(axes), dtype)
    return mesh.reshard(weight.astype(dtype), *gathered(axes))


def reduced(precision: Precision, *over: str | None) -> str:
    """The dtype in which sums over the devices that share these logical axes are added.

    float32 where no devices share them, since nothing is sent.
    """
    if not mesh.is_split(*over):
        return "float32"
    if precision.reduce != "auto":
        return precision.reduce
    return "float32" if mesh.platform() == "cpu" else precision.dtype


def dot(
    a: jax.Array,
    b: jax.Array,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    spec: jax.sharding.PartitionSpec | None,
    result: str = "float32",
) -> jax.Array:
    """`dot_general` without batch dimensions, exact for float32 operands.

    Each device sums in float32; the sums of several are added in the dtype of the result.
    """
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a, b, (contract, ((), ())), precision, preferred_element_type=result, out_sharding=spec
    )


def einsum(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Product of two activations, summed in float32, exact for float32 operands."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(formula, a, b, precision=precision, preferred_element_type=jnp.float32)


class Product(NamedTuple):
    """How a product with a stored weight is computed."""

    precision: Precision
    result: str
    """Dtype."""
    transposed: bool

    def dimensions(self, kernel: Weight, inner: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The kernel's inner dimensions, of which there are so many, and its outer ones."""
        every = tuple(range(kernel.ndim))
        if self.transposed:
            return every[kernel.ndim - inner :], every[: kernel.ndim - inner]
        return every[:inner], every[inner:]


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _dense(
    x: jax.Array, kernel: Weight, bias: jax.Array | None, axes: Axes, out: Axes, how: Product
) -> jax.Array:
    inner, _ = how.dimensions(kernel, x.ndim - 2)
    if x.shape[1] == 1 and out[1] is None:
        y = _token_product(x[:, 0], kernel, inner, axes, (out[0], *out[2:]), how)[:, None]
    else:
        weight, sums = _gathered(kernel, inner, axes, how.precision)
        y = dot(x, weight, (tuple(range(2, x.ndim)), inner), mesh.out_sharding(*out), sums)
    return (y if bias is None else y + bias).astype(how.result)


def _token_product(
    x: jax.Array, kernel: Weight, inner: tuple[int, ...], axes: Axes, out: Axes, how: Product
) -> jax.Array:
    """The product for one token of each row, [B, *inner] -> [B, *outer] with logical axes `out`.

    Without the dimension of tokens, XLA's CPU compiler reads transposed weights as they are.
    """
    on_one_cpu = mesh.platform() == "cpu" and not mesh.is_split(*axes)
    single = on_one_cpu and x.shape[0] == 1
    group = group_size(math.prod(x.shape[1:])) if single else None
    if isinstance(kernel, Quantized) and on_one_cpu and not kernel.is_packed:
        if group is None:
            return kernel.product(x, inner, None)

        def narrow(x: jax.Array, values: jax.Array, scale: jax.Array) -> jax.Array:
            return replace(kernel, values=values, scale=scale).product(x, inner, group)

        return _unsplit(narrow, out, x, kernel.values, kernel.scale)
    weight, sums = _gathered(kernel, inner, axes, how.precision)
    if group is not None:
        product = partial(row_product, inner=inner, group=group)
        return _unsplit(lambda x, weight: product(x[0], weight)[None], out, x, weight)
    return dot(x, weight, (tuple(range(1, x.ndim)), inner), mesh.out_sharding(*out), sums)


def _unsplit(f: Callable[..., jax.Array], out: Axes, *args: jax.Array) -> jax.Array:
    """`f` of arrays that no axis splits, as one device computes it, with logical axes `out`: it
    merges dimensions that have logical axes, which JAX refuses even where none is split."""
    axes = [(None,) * arg.ndim for arg in args]
    run = mesh.per_device(lambda *args: (f(*args),), axes, ((None,) * len(out),))
    return mesh.reshard(run(*args)[0], *out)


def _gathered(
    kernel: Weight, inner: tuple[int, ...], axes: Axes, precision: Precision
) -> tuple[jax.Array, str]:
    """A gathered kernel, and the dtype in which sums over devices are added."""
    sums = reduced(precision, *(gathered(axes)[i] for i in inner))
    return gather(kernel, axes, precision.dtype), sums


def _dense_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, axes: Axes, out: Axes, how: Product
) -> tuple[jax.Array, tuple]:
    return _dense(x, kernel, bias, axes, out, how), (x, kernel, bias)


def _dense_backward(axes: Axes, out: Axes, how: Product, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel, bias = saved
    dbias = None if bias is None else dy.astype(jnp.float32).sum((0, 1)).astype(bias.dtype)
    dy = dy.astype(x.dtype)
    _, outer = how.dimensions(kernel, x.ndim - 2)
    dx = input_gradient(dy, kernel, x, outer, axes, how.precision)
    sums = reduced(how.precision, "batch", "length")
    left, right = (dy, x) if how.transposed else (x, dy)
    return dx, weight_gradient(left, right, 2, axes, sums).astype(kernel.dtype), dbias


def input_gradient(
    dy: jax.Array,
    kernel: Weight,
    x: jax.Array,
    outer: tuple[int, ...],
    axes: Axes,
    precision: Precision,
) -> jax.Array:
    """The gradient of x, of its shape, dtype and sharding.

    Args:
      dy: [B, L, *outer].
      kernel: stored.
      x: [B, L, *inner].
      outer: dimensions of the kernel that the result has.
      axes: logical axes of the kernel as stored.
      precision: dtypes of the operands and of sums over devices.
    """
    contract = (tuple(range(2, dy.ndim)), outer)
    weight = gather(kernel, axes, precision.dtype)
    sums = reduced(precision, *(gathered(axes)[i] for i in outer))
    return dot(dy, weight, contract, mesh.spec_of(x), sums).astype(x.dtype)


def weight_gradient(
    x: jax.Array, dy: jax.Array, rows: int, axes: Axes | None = None, result: str = "float32"
) -> jax.Array:
    """Sums the outer products of x and dy over rows.

    CPUs are faster with the narrower operand on the left; the barrier keeps XLA from swapping the
    operands back.

    Args:
      x: [*rows, *inner].
      dy: [*rows, *outer].
      rows: number of leading dimensions to sum over.
      axes: logical axes of the result; None inside `mesh.per_device`.
      result: its dtype, in which the sums of devices are added.

    Returns:
      [*inner, *outer].
    """
    inner, outer = x.ndim - rows, dy.ndim - rows

    def multiply(a: jax.Array, b: jax.Array, spec: jax.sharding.PartitionSpec | None) -> jax.Array:
        return dot(a, b, (tuple(range(rows)),) * 2, spec, result)

    def product(a: jax.Array, b: jax.Array, axes: Axes | None) -> jax.Array:
        if axes is None:
            return multiply(a, b, None)
        return exchanges.sum_over_rows(multiply, a, b, rows, axes)

    if mesh.platform() != "cpu" or math.prod(x.shape[rows:]) <= math.prod(dy.shape[rows:]):
        return product(x, dy, axes)
    swapped_axes = None if axes is None else (*axes[inner:], *axes[:inner])
    swapped = jax.lax.optimization_barrier(product(dy, x, swapped_axes))
    return swapped.transpose(*range(outer, outer + inner), *range(outer))


_dense.defvjp(_dense_forward, _dense_backward)
