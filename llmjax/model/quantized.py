"""Weights stored in 8 or 4 bits, which products widen where they read them.

A projection's kernel has one scale per output channel in int8, and in int4 one per `GROUP` weights
along its last inner dimension; those into the residual stream always have int8. Tables of tokens
(the embedding and the LM head) have one scale per token, always in int8: they are the most
sensitive, and rows are looked up one by one. Norms, biases, positions, adapters and the heads of
tasks are not quantized.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import gcd
from typing import Literal

import jax
import jax.numpy as jnp

from llmjax.model.row_products import row_product
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Weights = Literal["int8", "int4"]

GROUP = 16
"""Weights that share a scale in int4."""

PARTS = {"bfloat16": 2, "float32": 3}
"""8-bit integers that stand for an activation of a dtype in products of integers."""

CANDIDATES = tuple(sign * (5.5 + 0.25 * step) for step in range(15) for sign in (-1, 1))
"""Values of the 4-bit grid that the largest weight of a group is tried at."""


@partial(jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=["axis"])
@dataclass(frozen=True)
class Quantized:
    """An array as narrow integers times scales."""

    values: jax.Array
    """int8; or uint8 with two weights of a group each, along `axis`: the low four bits have the
    group's first half, the high ones its second, both with an offset of 8."""
    scale: jax.Array
    """float32 (int8) or bfloat16 (int4); of the same rank. A dimension of 1 is shared by all."""
    axis: int
    """The dimension of groups, counted from the end."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        shape = list(self.values.shape)
        shape[self.axis] *= 2 if self.is_packed else 1
        return tuple(shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.values.ndim

    @property
    def is_packed(self) -> bool:
        """Whether a byte has two weights."""
        return self.values.dtype == jnp.uint8

    @property
    def T(self) -> "Quantized":
        """The transpose of a matrix."""
        return Quantized(self.values.T, self.scale.T, -3 - self.axis)

    def gather(self, axes: Axes) -> "Quantized":
        """Reshards the narrow integers and their scales to logical axes."""
        values = mesh.reshard(self.values, *axes)
        return replace(self, values=values, scale=mesh.reshard(self.scale, *self._scale_axes(axes)))

    def widen(self, axes: Axes, dtype: str) -> jax.Array:
        """The array that this stands for, split by `axes` as the narrow integers are."""

        def local(values: jax.Array, scale: jax.Array) -> tuple[jax.Array]:
            return (_widen(replace(self, values=values, scale=scale), dtype),)

        run = mesh.per_device(local, (axes, self._scale_axes(axes)), (axes,))
        return run(self.values, self.scale)[0]

    def product(self, x: jax.Array, inner: tuple[int, ...], group: int | None) -> jax.Array:
        """The product with rows; for int8 on one CPU device.

        Args:
          x: [B, *inner], of any float dtype.
          inner: the dimensions of this array that are summed over.
          group: to multiply a single row, see `row_product`; None: products of integers alone.

        Returns:
          [B, *outer], float32.
        """
        if group is None:
            y = self._integer_product(x, inner)
        else:
            y = row_product(x[0], self.values, inner, group)[None]
        return y * self.scale.squeeze(inner)

    def _integer_product(self, x: jax.Array, inner: tuple[int, ...]) -> jax.Array:
        """`product` before scales, with each row as a scale times integers of 8 bits.

        Each is the rounding error of those before in units of 1/254. Three together have 22 bits,
        nearly float32's 24, and two have 15, nearly twice bfloat16's 8.
        """
        count, over = PARTS[x.dtype.name], tuple(range(1, x.ndim))
        x = x.astype(jnp.float32)
        unit = _nonzero(jnp.abs(x).max(over, keepdims=True)) / 127
        rest, parts = x / unit, []
        for _ in range(count):
            parts.append(jnp.round(rest))
            rest = (rest - parts[-1]) * 254
        rows = jnp.concatenate(parts).astype(jnp.int8)
        dimensions = ((over, inner), ((), ()))
        sums = jax.lax.dot_general(rows, self.values, dimensions, preferred_element_type=jnp.int32)
        y, *larger = reversed(jnp.split(sums.astype(jnp.float32), count))
        for part in larger:
            y = part + y / 254
        return unit.reshape(-1, *[1] * (y.ndim - 1)) * y

    def _scale_axes(self, axes: Axes) -> Axes:
        sizes = zip(self.scale.shape, axes, strict=True)
        return tuple(None if size == 1 else axis for size, axis in sizes)


Weight = jax.Array | Quantized
"""A weight as it is stored."""


def quantize(weight: jax.Array, axes: Axes, inner: tuple[int, ...], weights: Weights) -> Quantized:
    """Quantizes a projection's kernel or a table of tokens.

    Args:
      weight: of any float dtype, split by `axes`.
      axes: its logical axes.
      inner: the dimensions that products sum over, counted from the end; of the last one, groups.
      weights: int8 or int4; int8 for tables, for projections into the residual stream, whose errors
        add up there, and for kernels that have no whole groups.
    """
    axis, is_output = inner[-1], axes[-1] in mesh.WEIGHT_AXES
    size, group = weight.shape[axis], gcd(weight.shape[axis], GROUP)
    if size // mesh.parts(axes[axis]) % group:  # devices would share a group
        is_gathered = axes[axis] in mesh.WEIGHT_AXES  # before use, so that it can be kept whole
        axes = tuple(None if name in mesh.WEIGHT_AXES else name for name in axes)
        group = group if is_gathered else 0
    if weights == "int8" or "vocab" in axes or is_output or group < GROUP:
        import qwix  # here, since training and unquantized decoding do without

        channels = set(range(weight.ndim)) - {weight.ndim + i for i in inner}
        array = qwix.quantize(weight.astype(jnp.float32), jnp.int8, channelwise_axes=channels)
        return Quantized(array.qvalue, array.scale, axis)
    pack = mesh.per_device(partial(_pack, axis=axis, group=group), (axes,), (axes, axes))
    values, scale = pack(weight)
    return Quantized(values, scale, axis)


def as_array(weight: Weight, axes: Axes, dtype: str) -> jax.Array:
    """A weight's array, split by `axes`: widened to `dtype` if it is quantized."""
    return weight.widen(axes, dtype) if isinstance(weight, Quantized) else weight


def _pack(weight: jax.Array, *, axis: int, group: int) -> tuple[jax.Array, jax.Array]:
    """4-bit values, two in a byte, and the scales of groups."""
    axis += weight.ndim
    shape = weight.shape
    grouped = weight.astype(jnp.float32).reshape(*shape[:axis], -1, group, *shape[axis + 1 :])
    scale = _search(grouped, axis + 1)
    levels = (_levels(grouped, scale) + 8).astype(jnp.uint8)
    low, high = jnp.split(levels, 2, axis + 1)
    packed = (low | (high << 4)).reshape(*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
    return packed, scale.astype(jnp.bfloat16).squeeze(axis + 1)


def _levels(grouped: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(grouped / scale), -8, 7)


def _search(grouped: jax.Array, axis: int) -> jax.Array:
    """The bfloat16 scale of each group with the least squared error.

    Each candidate puts the weight of largest magnitude at another value of the grid; the scale is
    then the least-squares fit to the levels it gives.
    """
    largest = jnp.take_along_axis(grouped, jnp.abs(grouped).argmax(axis, keepdims=True), axis)

    def attempt(best: tuple[jax.Array, jax.Array], candidate: jax.Array) -> tuple[tuple, None]:
        levels = _levels(grouped, _nonzero(largest / candidate))
        square = jnp.square(levels).sum(axis, keepdims=True)
        fitted = (grouped * levels).sum(axis, keepdims=True) / jnp.maximum(square, 1)
        scale = _nonzero(fitted.astype(jnp.bfloat16).astype(jnp.float32))
        error = jnp.square(grouped - scale * _levels(grouped, scale)).sum(axis, keepdims=True)
        better = error < best[1]
        return (jnp.where(better, scale, best[0]), jnp.where(better, error, best[1])), None

    start = (jnp.ones_like(largest), jnp.full_like(largest, jnp.inf))
    (scale, _), _ = jax.lax.scan(attempt, start, jnp.array(CANDIDATES))
    return scale


def _nonzero(scale: jax.Array) -> jax.Array:
    """A scale of 1 for groups of zeros (and of numbers too small to divide by)."""
    return jnp.where(jnp.abs(scale) < 1e-30, 1.0, scale)


def _widen(weight: Quantized, dtype: str) -> jax.Array:
    values, scale, axis = weight.values, weight.scale, weight.axis + weight.ndim
    if not weight.is_packed:
        return (values.astype(jnp.float32) * scale).astype(dtype)
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    packed = values.reshape(*before, scale.shape[axis], -1, *after)
    levels = jnp.concatenate([packed & 15, packed >> 4], axis + 1).astype(jnp.float32) - 8
    wide = levels * jnp.expand_dims(scale, axis + 1).astype(jnp.float32)
    return wide.reshape(*before, -1, *after).astype(dtype)
