"""What a decoder remembers between steps: the keys and values of every token so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from llmjax.model.config import ModelConfig
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

# A step's two products each read what they sum over in rows: on a CPU keys with slots before
# features would take three times as long.
KEY_AXES: Axes = ("batch", "kv_heads", "head_dim", None)
VALUE_AXES: Axes = ("batch", "kv_heads", None, "head_dim")

Arrays = tuple[jax.Array, ...]
"""An array for each layer, so that each is written in place and read where it lies."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys [B, N, K, S] and values [B, N, S, K] of each layer; slot s holds position s.

    They are of the compute dtype, but float32 on a CPU: it scatters no bfloat16 without turning all
    of it into float32 and back, and multiplies a few rows of it three times as slowly.
    """

    keys: Arrays
    values: Arrays
    cross_keys: Arrays = ()
    """Of the encoder's output, [B, N, K, E] and [B, N, E, K]; none for a decoder alone."""
    cross_values: Arrays = ()
    encoder_segments: jax.Array | None = None
    """[B, E] int32, 0 for padding; None where there is none."""

    @property
    def length(self) -> int:
        """How many positions fit."""
        return self.values[0].shape[2]

    def write(self, layer: int, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Stores k, v [B, T, N, K] of one layer at slots `positions` [B, T], row by row."""
        new, place = ("batch", None, "kv_heads", "head_dim"), ("batch", None)
        stores = (KEY_AXES, VALUE_AXES)
        write = mesh.per_device(_write, (*stores, place, new, new), stores)
        keys, values = write(self.keys[layer], self.values[layer], positions, k, v)
        return replace(
            self, keys=_with(self.keys, layer, keys), values=_with(self.values, layer, values)
        )

    def fill(self, layer: int, k: jax.Array, v: jax.Array) -> "Cache":
        """Stores k, v [B, T, N, K] of one layer at slots 0 to T - 1, and zeros behind them."""
        room = (0, self.length - k.shape[1])
        keys = jnp.pad(k.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [room])
        values = jnp.pad(v.swapaxes(1, 2), [(0, 0)] * 2 + [room, (0, 0)])
        keys = mesh.reshard(keys.astype(self.keys[layer].dtype), *KEY_AXES)
        values = mesh.reshard(values.astype(self.values[layer].dtype), *VALUE_AXES)
        return replace(
            self, keys=_with(self.keys, layer, keys), values=_with(self.values, layer, values)
        )

    def read(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Keys [B, N, K, S] and values [B, N, S, K] of one layer."""
        return self.keys[layer], self.values[layer]

    def with_encoded(
        self, pairs: Sequence[tuple[jax.Array, jax.Array]], segments: jax.Array | None
    ) -> "Cache":
        """Remembers each layer's keys and values for the encoder's output, [B, E, N, K]."""
        keys = tuple(k.transpose(0, 2, 3, 1) for k, _ in pairs)
        values = tuple(v.swapaxes(1, 2) for _, v in pairs)
        return replace(self, cross_keys=keys, cross_values=values, encoder_segments=segments)

    def read_encoded(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Keys [B, N, K, E] and values [B, N, E, K] of one layer for the encoder's output."""
        return self.cross_keys[layer], self.cross_values[layer]

    def grown(self, length: int) -> "Cache":
        """The same with room for `length` positions, as many as now or more."""
        more = (0, length - self.length)

        def pad(arrays: Arrays, axis: int) -> Arrays:
            room = [more if dimension == axis else (0, 0) for dimension in range(4)]
            return tuple(jnp.pad(array, room) for array in arrays)

        return replace(self, keys=pad(self.keys, 3), values=pad(self.values, 2))

    def take(self, rows: jax.Array) -> "Cache":
        """The given rows of this cache, [R] int32, each as often as it is named."""

        def pick(array: jax.Array) -> jax.Array:
            return array.at[rows].get(out_sharding=mesh.spec_of(array))

        return jax.tree.map(pick, self)


def _write(
    keys: jax.Array, values: jax.Array, positions: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    rows = jnp.arange(positions.shape[0])[:, None]
    return (
        keys.at[rows, :, :, positions].set(k.astype(keys.dtype), mode="drop"),
        values.at[rows, :, positions].set(v.astype(values.dtype), mode="drop"),
    )


def _with(arrays: Arrays, layer: int, new: jax.Array) -> Arrays:
    return (*arrays[:layer], new, *arrays[layer + 1 :])


def empty(config: ModelConfig, dtype: str, batch: int, length: int) -> Cache:
    """A cache for `length` positions of `batch` rows."""
    dtype = "float32" if mesh.platform() == "cpu" else dtype
    sizes = {"batch": batch, "kv_heads": config.kv_heads, "head_dim": config.head_width}

    def zeros(axes: Axes) -> Arrays:
        shape = tuple(length if axis is None else sizes[axis] for axis in axes)
        spec, layers = mesh.out_sharding(*axes), range(config.num_decoder_layers)
        return tuple(jnp.zeros(shape, dtype, out_sharding=spec) for _ in layers)

    return Cache(zeros(KEY_AXES), zeros(VALUE_AXES))
