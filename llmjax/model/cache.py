"""The cache of a decoder: keys and values, and states of linear attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.config import ModelConfig
from llmjax.model.delta_rule import STATE_AXES
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Arrays = tuple[jax.Array | None, ...]
"""An array per layer, so that each is updated in place and read without a copy; None of layers that
have no such array."""


class LinearState(NamedTuple):
    """What linear attention keeps of each row."""

    recent: jax.Array
    """[B, W - 1, N, F]: the last inputs of the convolution, in the dtype of keys."""
    matrix: jax.Array
    """[B, N, R, K, V] float32, see `delta_rule`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys [B, N, K, S] and values [B, N, S, K] of each layer; slot s holds position s.

    In latent attention, N is 1: the keys are the rotated ones that heads share, and the values the
    compressed vectors.

    They have the compute dtype, but float32 on a CPU: there scattering bfloat16 converts the whole
    array to float32 and back, and products of a few rows are three times as slow.
    """

    keys: Arrays
    values: Arrays
    cross_keys: Arrays = ()
    """Of the encoder's output, [B, N, K, E] and [B, N, E, K]; empty without an encoder."""
    cross_values: Arrays = ()
    encoder_segments: jax.Array | None = None
    """[B, E] int32, 0 for padding; None: no padding."""
    states: tuple[LinearState | None, ...] = ()
    """Of layers with linear attention, which have no keys and values; empty if there are none."""
    is_long: jax.Array | None = None
    """[B] bool, as `BlockContext.is_long`, of the text that each row will hold; None: models where
    that does not matter."""
    heads: str | None = field(default="kv_heads", metadata={"static": True})
    """Logical axis of N; None in latent attention, where devices that split heads have all."""

    @property
    def axes(self) -> tuple[Axes, Axes]:
        """Logical axes of keys and of values."""
        return cache_axes(self.heads)

    @property
    def length(self) -> int:
        """Number of positions."""
        return next(values.shape[2] for values in self.values if values is not None)

    def write(self, layer: int, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Writes k, v [B, T, N, K] of a layer to the slots `positions` [B, T] of each row."""
        new_axes, position_axes = ("batch", None, self.heads, "head_dim"), ("batch", None)
        axes = self.axes
        write = mesh.per_device(_write, (*axes, position_axes, new_axes, new_axes), axes)
        keys, values = write(*self.read(layer), positions, k, v)
        return self._replace_layer(layer, keys, values)

    def fill(self, layer: int, k: jax.Array, v: jax.Array) -> "Cache":
        """Writes k, v [B, T, N, K] of a layer to slots 0 to T - 1, and zeros to the rest."""
        padding = (0, self.length - k.shape[1])
        keys = jnp.pad(k.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [padding])
        values = jnp.pad(v.swapaxes(1, 2), [(0, 0)] * 2 + [padding, (0, 0)])
        key_axes, value_axes = self.axes
        old_keys, old_values = self.read(layer)
        keys = mesh.reshard(keys.astype(old_keys.dtype), *key_axes)
        values = mesh.reshard(values.astype(old_values.dtype), *value_axes)
        return self._replace_layer(layer, keys, values)

    def _replace_layer(self, layer: int, keys: jax.Array, values: jax.Array) -> "Cache":
        def replaced(arrays: Arrays, array: jax.Array) -> Arrays:
            return (*arrays[:layer], array, *arrays[layer + 1 :])

        return replace(self, keys=replaced(self.keys, keys), values=replaced(self.values, values))

    def read(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Returns keys [B, N, K, S] and values [B, N, S, K] of a layer."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None
        assert values is not None
        return keys, values

    def read_state(self, layer: int) -> LinearState:
        """Returns the state of a layer with linear attention."""
        state = self.states[layer]
        assert state is not None
        return state

    def with_state(self, layer: int, state: LinearState) -> "Cache":
        """Replaces the state of a layer with linear attention."""
        return replace(self, states=(*self.states[:layer], state, *self.states[layer + 1 :]))

    def with_encoded(
        self, pairs: Sequence[tuple[jax.Array, jax.Array]], segments: jax.Array | None
    ) -> "Cache":
        """Stores each layer's keys and values of the encoder's output, [B, E, N, K]."""
        keys = tuple(k.transpose(0, 2, 3, 1) for k, _ in pairs)
        values = tuple(v.swapaxes(1, 2) for _, v in pairs)
        return replace(self, cross_keys=keys, cross_values=values, encoder_segments=segments)

    def read_encoded(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Returns keys [B, N, K, E] and values [B, N, E, K] of the encoder's output in a layer."""
        keys, values = self.cross_keys[layer], self.cross_values[layer]
        assert keys is not None
        assert values is not None
        return keys, values

    def grown(self, length: int) -> "Cache":
        """Returns the cache extended to `length` positions."""
        padding = (0, length - self.length)

        def pad(arrays: Arrays, axis: int) -> Arrays:
            widths = [padding if dimension == axis else (0, 0) for dimension in range(4)]
            return tuple(array if array is None else jnp.pad(array, widths) for array in arrays)

        return replace(self, keys=pad(self.keys, 3), values=pad(self.values, 2))

    def take(self, rows: jax.Array) -> "Cache":
        """Selects rows, [R] int32, which may repeat."""

        def pick(array: jax.Array) -> jax.Array:
            return array.at[rows].get(out_sharding=mesh.spec_of(array))

        return jax.tree.map(pick, self)


def _write(
    keys: jax.Array, values: jax.Array, positions: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows = jnp.arange(positions.shape[0])[:, None]
    if positions.shape == (1, 1) and mesh.platform() == "cpu":
        # XLA's CPU compiler makes one write a dynamic-update-slice, computes that once for the
        # cache and once for attention, and copies the cache for it. It leaves two writes alone.
        positions, k, v = (jnp.concatenate([x, x], axis=1) for x in (positions, k, v))
    return (
        keys.at[rows, :, :, positions].set(k.astype(keys.dtype), mode="drop"),
        values.at[rows, :, positions].set(v.astype(values.dtype), mode="drop"),
    )


def cache_axes(heads: str | None) -> tuple[Axes, Axes]:
    """Logical axes of keys and of values, whose heads have this one.

    Decoding's two products read contiguous memory in these layouts; on a CPU, keys with slots
    before features would take three times as long.
    """
    return ("batch", heads, "head_dim", None), ("batch", heads, None, "head_dim")


def empty(config: ModelConfig, dtype: str, batch: int, length: int) -> Cache:
    """Creates an empty cache for `length` positions of `batch` rows."""
    dtype = "float32" if mesh.platform() == "cpu" else dtype
    mla = config.mla
    heads, key_width, value_width = config.kv_heads, config.head_width, config.value_width
    if mla is not None:
        heads, key_width, value_width = 1, mla.rope_head_dim, mla.kv_rank
    axis = "kv_heads" if mla is None else None
    shapes = (batch, heads, key_width, length), (batch, heads, length, value_width)
    layers, linear = range(config.num_decoder_layers), config.linear_layers

    def zeros(shape: tuple[int, ...], axes: Axes) -> Arrays:
        return tuple(None if i in linear else _zeros(shape, axes, dtype) for i in layers)

    keys, values = (zeros(*pair) for pair in zip(shapes, cache_axes(axis), strict=True))
    states = tuple(empty_state(config, dtype, batch) if i in linear else None for i in layers)
    return Cache(keys, values, states=states if linear else (), heads=axis)


def empty_state(config: ModelConfig, dtype: str, batch: int) -> LinearState:
    """The state of a layer with linear attention before the first token of `batch` rows."""
    linear = config.linear
    assert linear is not None
    recent = batch, linear.conv_width - 1, linear.key_heads, linear.conv_channels
    widths = linear.values_per_key, linear.key_head_dim, linear.value_head_dim
    return LinearState(
        _zeros(recent, ("batch", None, "heads", None), dtype),
        _zeros((batch, linear.key_heads, *widths), STATE_AXES, "float32"),
    )


def _zeros(shape: tuple[int, ...], axes: Axes, dtype: str) -> jax.Array:
    return jnp.zeros(shape, dtype, out_sharding=mesh.out_sharding(*axes))
