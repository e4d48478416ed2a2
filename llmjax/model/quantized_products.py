"""Products of projections whose operands are quantized to 8 bits as they are computed.

Numerics are those of qwix's `dot_general_qt`: each operand is divided by the largest magnitude of
its channel, a row of activations or an output of the kernel, and rounded; products are summed
exactly (int8, in int32) or in float32, and multiplied by both scales. In the backward pass the
scale that lies along the sum is applied to the gradient before that is quantized, so that the
operand of the forward pass serves as it is. qwix's own product does not trace on meshes with
Explicit axis types; its `quantize` does.

Scales are those of whole channels, however these are split over devices, so that any mesh computes
the same. Weights are quantized where they are stored, and gathered in 8 bits.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

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


def dense(
    x: jax.Array,
    kernel: jax.Array,
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
      kernel: [*inner, *outer], stored.
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
    return _dense(x, kernel, bias, axes, out, Settings(precision, quantization))


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


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _dense(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, axes: Axes, out: Axes, how: Settings
) -> jax.Array:
    shape, dtype = _Shape.of(axes, out), how.quantization.dtype
    inner, _ = shape.split
    rows, weight = _quantize(x, ROWS, dtype), _weight(kernel, shape, dtype)
    y = _product(
        _Operand(rows.values, (*shape.rows, *shape.inner)),
        _Operand(weight.values, (*shape.inner, *shape.outer)),
        (tuple(range(2, x.ndim)), inner),
        _row_scale(rows, shape.rows, len(shape.outer)),
        _Operand(weight.scale, shape.outer),
        over=shape.inner,
        # The sum of devices is scattered over the length that "residual" splits further.
        result=out if mesh.is_split(*shape.inner) else (*shape.rows, *shape.outer),
        sums=products.reduced(how.precision, *shape.inner),
    )
    y = mesh.reshard(y, *out)
    return (y if bias is None else y + bias).astype(how.precision.dtype)


def _dense_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, axes: Axes, out: Axes, how: Settings
) -> tuple[jax.Array, tuple]:
    # Activations are kept in the compute dtype, which several projections share.
    return _dense(x, kernel, bias, axes, out, how), (x, kernel, bias)


def _dense_backward(axes: Axes, out: Axes, how: Settings, saved: tuple, dy: jax.Array) -> tuple:
    x, kernel, bias = saved
    dbias = None if bias is None else dy.astype(jnp.float32).sum(ROWS).astype(bias.dtype)
    shape = _Shape.of(axes, out)
    if how.quantization.inputs:
        dx = _input_gradient(x, kernel, dy, shape, how)
    else:
        _, outer = shape.split
        dx = products.input_gradient(dy.astype(x.dtype), kernel, x, outer, axes, how.precision)
    if how.quantization.weights:
        dkernel = _weight_gradient(x, dy, axes, out, how)
    else:
        sums = products.reduced(how.precision, *shape.rows)
        dkernel = products.weight_gradient(x, dy.astype(x.dtype), 2, axes, sums)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype), dbias


_dense.defvjp(_dense_forward, _dense_backward)


def _input_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, shape: _Shape, how: Settings
) -> jax.Array:
    """dy kernel^T, [B, L, *inner]; dy takes the scales of the kernel's outputs."""
    _, outer = shape.split
    weight = _weight(kernel, shape, how.quantization.dtype)
    rows = _quantize(dy.astype(jnp.float32) * weight.scale, ROWS, how.quantization.dtype)
    return _product(
        _Operand(rows.values, (*shape.rows, *shape.outer)),
        _Operand(weight.values, (*shape.inner, *shape.outer)),
        (tuple(range(2, dy.ndim)), outer),
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
        (ROWS, ROWS),
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


def _weight(kernel: jax.Array, shape: _Shape, dtype: NarrowDtype) -> _Quantized:
    """A stored kernel, quantized by output and then gathered."""
    _, outer = shape.split
    values, scale = _quantize(kernel, outer, dtype)
    values = mesh.reshard(values, *shape.inner, *shape.outer)
    return _Quantized(values, mesh.reshard(scale, *shape.outer))


def _row_scale(rows: _Quantized, axes: Axes, more: int) -> _Operand:
    """The scales of rows, [B, L], with `more` dimensions of 1."""
    scale = jnp.expand_dims(rows.scale, tuple(range(2, 2 + more)))
    return _Operand(scale, (*axes, *(None,) * more))


def _product(
    a: _Operand,
    b: _Operand,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
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
      contract: dimensions of a and of b to sum over.
      *scales: float32, of shapes that broadcast to that of the result.
      over: logical axes of those dimensions.
      result: logical axes of the result.
      sums: dtype in which sums over devices are added.
    """
    on_cpu = mesh.platform() == "cpu"

    def local(a: jax.Array, b: jax.Array, *scales: jax.Array) -> tuple[jax.Array]:
        y = _dot(a, b, contract, on_cpu=on_cpu)
        for scale in scales:
            y = y * scale
        return (exchanges.reduce_scatter(y.astype(sums), over, result),)

    operands = (a, b, *scales)
    run = mesh.per_device(local, [each.axes for each in operands], (result,))
    return run(*(each.array for each in operands))[0]


def _dot(
    a: jax.Array,
    b: jax.Array,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    on_cpu: bool,
) -> jax.Array:
    """`dot_general` of 8-bit values, float32.

    CPUs multiply them as bfloat16, which holds all of them, in a sixth of the time.
    """
    if on_cpu:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    total = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
    y = jax.lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=total)
    return y.astype(jnp.float32)
