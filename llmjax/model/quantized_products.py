"""Products of projections whose operands are quantized to 8 bits as they are computed.

Numerics are those of qwix's `dot_general_qt`: each operand is divided by the largest magnitude of
its channel, a row of activations or an output of the kernel, and rounded; products are summed
exactly (int8, in int32) or in float32, and multiplied by both scales. In the backward pass the
scale that lies along the sum is applied to the gradient before that is quantized, so that the
operand of the forward pass serves as it is. qwix's own product does not trace on meshes with
Explicit axis types; its `quantize` does.

Scales are those of whole channels, however these are split over devices, so that any mesh computes
the same. Weights are quantized where they are stored, and gathered in 8 bits: once for all layers
and microbatches of a training step (`Model.quantized_once`), else where they are used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from llmjax.model import products
from llmjax.model.compute import Precision, Quantization
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.chips import NarrowDtype
from llmjax.parallel.mesh import Axes

DTYPES: dict[NarrowDtype, jax.typing.DTypeLike] = {
    "int8": jnp.int8,
    "fp8": jnp.float8_e4m3fn,
}
"""Of values. e4m3 for gradients as well: each row has its own scale, so that the wider range of
e5m2 is worth less than the bit that it costs."""


class Settings(NamedTuple):
    """How a projection is computed."""

    precision: Precision
    quantization: Quantization


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kernel:
    """A stored kernel, or those of a stack's layers, and the same quantized, without derivative."""

    stored: jax.Array
    values: jax.Array
    """8 bits; of the shape and sharding of `stored`."""
    scale: jax.Array
    """float32, [*outer]."""

    @classmethod
    def of(
        cls, stored: jax.Array, axes: Axes, inner: tuple[int, ...], dtype: NarrowDtype
    ) -> "Kernel":
        """Quantizes a kernel by output.

        Args:
          stored: [*layers, *inner, *outer].
          axes: its logical axes.
          inner: the dimensions that a product sums over, counted from the end.
          dtype: of the values.
        """
        summed = {stored.ndim + i for i in inner}
        channels = tuple(i for i in range(stored.ndim) if i not in summed)
        values, scale = _quantize(jax.lax.stop_gradient(stored), channels, dtype)
        whole = products.gathered(axes)
        return cls(stored, values, mesh.reshard(scale, *(whole[i] for i in channels)))

    def with_derivative(self, stored: jax.Array) -> "Kernel":
        """The same with `stored`, of equal values, as what gradients are of."""
        return Kernel(stored, self.values, self.scale)


def dense(
    x: jax.Array,
    kernel: jax.Array | Kernel,
    bias: jax.Array | None,
    *,
    axes: Axes,
    out: Axes,
    precision: Precision,
    quantization: Quantization,
) -> jax.Array:
    """x @ kernel + bias, like `products.dense`, of quantized operands.

    Args:
      x: [B, L, *inner].
      kernel: [*inner, *outer], stored; quantized here if it is not yet.
      bias: [*outer] or None.
      axes: logical axes of the kernel as stored.
      out: logical axes of the result.
      precision: dtypes of what is not quantized, and of sums over devices.
      quantization: dtype of the operands, and which products of the backward pass have it.

    Returns:
      [B, L, *outer] in the compute dtype.
    """
    shape = _Shape.of(axes, out)
    x, split = x.astype(precision.dtype), (*shape.rows, *shape.inner)
    if mesh.spec_of(x) != mesh.out_sharding(*split):  # else projections share one array
        x = mesh.reshard(x, *split)
    if not isinstance(kernel, Kernel):
        inner = tuple(range(-len(axes), len(shape.inner) - len(axes)))
        kernel = Kernel.of(kernel, axes, inner, quantization.dtype)
    narrow = _Quantized(kernel.values, kernel.scale)
    return _dense(x, kernel.stored, bias, narrow, axes, out, Settings(precision, quantization))


class _Shape(NamedTuple):
    """Logical axes of a projection's operands."""

    rows: Axes
    """Of the first two dimensions of activations."""
    inner: Axes
    outer: Axes

    @classmethod
    def of(cls, axes: Axes, out: Axes) -> "_Shape":
        whole, inner = products.gathered(axes), len(axes) + 2 - len(out)
        rows = (out[0], "length" if out[1] == "residual" else out[1])
        return cls(rows, whole[:inner], whole[inner:])

    @property
    def split(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Dimensions of `inner` and of `outer` in the kernel."""
        count = len(self.inner)
        return tuple(range(count)), tuple(range(count, count + len(self.outer)))


class _Quantized(NamedTuple):
    """An operand; `scale` has only the dimensions that are not summed over."""

    values: jax.Array
    scale: jax.Array


class _Operand(NamedTuple):
    """An array, and how it is split where a product reads it."""

    array: jax.Array
    axes: Axes


ROWS = (0, 1)
"""Dimensions of the rows of activations."""


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _dense(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    narrow: _Quantized,
    axes: Axes,
    out: Axes,
    how: Settings,
) -> jax.Array:
    del kernel  # of which `narrow` is made; the gradient is its
    shape = _Shape.of(axes, out)
    inner, _ = shape.split
    rows = _quantize(x, ROWS, how.quantization.dtype)
    y = _product(
        _Operand(rows.values, (*shape.rows, *shape.inner)),
        _gathered(narrow, shape),
        _dot((tuple(range(2, x.ndim)), inner)),
        _row_scale(rows, shape.rows, len(shape.outer)),
        _Operand(narrow.scale, shape.outer),
        over=shape.inner,
        # The sum of devices is scattered over the length that "residual" splits further.
        result=out if mesh.is_split(*shape.inner) else (*shape.rows, *shape.outer),
        sums=products.reduced(how.precision, *shape.inner),
    )
    y = mesh.reshard(y, *out)
    return (y if bias is None else y + bias).astype(how.precision.dtype)


def _dense_forward(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    narrow: _Quantized,
    axes: Axes,
    out: Axes,
    how: Settings,
) -> tuple[jax.Array, tuple]:
    # Activations are kept in the compute dtype, which several projections share.
    return _dense(x, kernel, bias, narrow, axes, out, how), (x, kernel, bias, narrow)


def _dense_backward(axes: Axes, out: Axes, how: Settings, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel, bias, narrow = saved
    dbias = None if bias is None else dy.astype(jnp.float32).sum(ROWS).astype(bias.dtype)
    shape = _Shape.of(axes, out)
    if how.quantization.inputs:
        dx = _input_gradient(narrow, dy, shape, how)
    else:
        _, outer = shape.split
        dx = products.input_gradient(dy.astype(x.dtype), kernel, x, outer, axes, how.precision)
    if how.quantization.weights:
        dkernel = _weight_gradient(x, dy, axes, out, how)
    else:
        sums = products.reduced(how.precision, *shape.rows)
        dkernel = products.weight_gradient(x, dy.astype(x.dtype), 2, axes, sums)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), dbias, None


_dense.defvjp(_dense_forward, _dense_backward)


def _input_gradient(narrow: _Quantized, dy: jax.Array, shape: _Shape, how: Settings) -> jax.Array:
    """dy kernel^T, [B, L, *inner]; dy takes the scales of the kernel's outputs."""
    _, outer = shape.split
    rows = _quantize(dy.astype(jnp.float32) * narrow.scale, ROWS, how.quantization.dtype)
    return _product(
        _Operand(rows.values, (*shape.rows, *shape.outer)),
        _gathered(narrow, shape),
        _dot((tuple(range(2, dy.ndim)), outer)),
        _row_scale(rows, shape.rows, len(shape.inner)),
        over=shape.outer,
        result=(*shape.rows, *shape.inner),
        sums=products.reduced(how.precision, *shape.outer),
    )


def _weight_gradient(
    x: jax.Array, dy: jax.Array, axes: Axes, out: Axes, how: Settings
) -> jax.Array:
    """x^T dy summed over rows, [*inner, *outer]; dy takes the scales of the rows of x."""
    shape, dtype = _Shape.of(axes, out), how.quantization.dtype
    rows = _quantize(x, ROWS, dtype)
    scale = jnp.expand_dims(mesh.reshard(rows.scale, *out[:2]), tuple(range(2, dy.ndim)))
    scaled = dy.astype(jnp.float32) * scale
    columns = _quantize(scaled, tuple(range(2, dy.ndim)), dtype)
    return _product(
        _Operand(rows.values, (*shape.rows, *shape.inner)),
        _Operand(columns.values, (*shape.rows, *shape.outer)),
        _sum_over_rows,
        _Operand(columns.scale, shape.outer),
        over=shape.rows,
        result=axes,
        sums=products.reduced(how.precision, *shape.rows),
    )


def _quantize(x: jax.Array, channels: tuple[int, ...], dtype: NarrowDtype) -> _Quantized:
    """Quantizes an operand that a product sums over all dimensions but `channels`."""
    import qwix  # here, since training without quantized products does without

    found = qwix.quantize(x.astype(jnp.float32), DTYPES[dtype], channelwise_axes=channels)
    summed = tuple(axis for axis in range(x.ndim) if axis not in channels)
    return _Quantized(found.qvalue, jnp.squeeze(found.scale, summed))


def _gathered(narrow: _Quantized, shape: _Shape) -> _Operand:
    """The values of a stored kernel, gathered."""
    axes = (*shape.inner, *shape.outer)
    return _Operand(mesh.reshard(narrow.values, *axes), axes)


def _row_scale(rows: _Quantized, axes: Axes, more: int) -> _Operand:
    """The scales of rows, [B, L], with `more` dimensions of 1."""
    scale = jnp.expand_dims(rows.scale, tuple(range(2, 2 + more)))
    return _Operand(scale, (*axes, *(None,) * more))


def _product(
    a: _Operand,
    b: _Operand,
    multiply: Callable[[jax.Array, jax.Array], jax.Array],
    *scales: _Operand,
    over: Axes,
    result: Axes,
    sums: str,
) -> jax.Array:
    """A product of quantized operands times scales, float32 or as `sums` says.

    Scales are multiplied before devices' sums are added, so that these travel in 16 or 32 bits of
    a float and cannot overflow.

    Args:
      a: 8-bit values.
      b: 8-bit values.
      multiply: a device's parts of a and b, to float32.
      *scales: float32, of shapes that broadcast to that of the result.
      over: logical axes of the dimensions that are summed over.
      result: logical axes of the result.
      sums: dtype in which sums over devices are added.
    """

    def local(a: jax.Array, b: jax.Array, *scales: jax.Array) -> tuple[jax.Array]:
        y = multiply(a, b)
        for scale in scales:
            y = y * scale
        return (exchanges.reduce_scatter(y.astype(sums), over, result),)

    operands = (a, b, *scales)
    run = mesh.per_device(local, [each.axes for each in operands], (result,))
    return run(*(each.array for each in operands))[0]


def _dot(
    contract: tuple[tuple[int, ...], tuple[int, ...]],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """`dot_general` of 8-bit values over these dimensions, to float32.

    CPUs multiply them as bfloat16, which holds all of them, in a sixth of the time.
    """
    on_cpu = mesh.platform() == "cpu"

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        if on_cpu:
            a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        total = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
        y = jax.lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=total)
        return y.astype(jnp.float32)

    return multiply


def _sum_over_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums the outer products of rows: [*rows, *inner], [*rows, *outer] -> [*inner, *outer].

    A TPU multiplies 8-bit operands at twice the speed of bfloat16 ones only if the sum runs along
    the lanes of the left one, so the operand with the shorter rows is transposed in memory before
    (of equal ones, that of one dimension). Llama 8B on v5e: 2.4e8 cycles for a projection of the
    MLP instead of 4.8e8, and 3e7 for the transpose.
    """
    if mesh.platform() != "tpu":
        return _dot((ROWS, ROWS))(a, b)
    x, y = (each.reshape(math.prod(each.shape[:2]), -1) for each in (a, b))
    if (x.shape[1], a.ndim) <= (y.shape[1], b.ndim):
        z = _dot(((1,), (0,)))(_transposed(x), y)
    else:
        z = _dot(((1,), (0,)))(_transposed(y), x).T
    return z.reshape(*a.shape[2:], *b.shape[2:])


def _transposed(x: jax.Array) -> jax.Array:
    """The transpose of a matrix, in memory as well."""
    major_first = Layout((0, 1))
    return with_layout_constraint(with_layout_constraint(x, major_first).T, major_first)
