"""The KV cache of a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp

from llmjax.model.config import ModelConfig
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Arrays = tuple[jax.Array, ...]
"""An array per layer, so that each is updated in place and read without a copy."""


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
        return self.values[0].shape[2]

    def write(self, layer: int, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Writes k, v [B, T, N, K] of a layer to the slots `positions` [B, T] of each row."""
        new_axes, position_axes = ("batch", None, self.heads, "head_dim"), ("batch", None)
        axes = self.axes
        write = mesh.per_device(_write, (*axes, position_axes, new_axes, new_axes), axes)
        keys, values = write(self.keys[layer], self.values[layer], positions, k, v)
        return self._replace_layer(layer, keys, values)

    def fill(self, layer: int, k: jax.Array, v: jax.Array) -> "Cache":
        """Writes k, v [B, T, N, K] of a layer to slots 0 to T - 1, and zeros to the rest."""
        padding = (0, self.length - k.shape[1])
        keys = jnp.pad(k.transpose(0, 2, 3, 1), [(0, 0)] * 3 + [padding])
        values = jnp.pad(v.swapaxes(1, 2), [(0, 0)] * 2 + [padding, (0, 0)])
        key_axes, value_axes = self.axes
        keys = mesh.reshard(keys.astype(self.keys[layer].dtype), *key_axes)
        values = mesh.reshard(values.astype(self.values[layer].dtype), *value_axes)
        return self._replace_layer(layer, keys, values)

    def _replace_layer(self, layer: int, keys: jax.Array, values: jax.Array) -> "Cache":
        def replaced(arrays: Arrays, array: jax.Array) -> Arrays:
            return (*arrays[:layer], array, *arrays[layer + 1 :])

        return replace(self, keys=replaced(self.keys, keys), values=replaced(self.values, values))

    def read(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Returns keys [B, N, K, S] and values [B, N, S, K] of a layer."""
        return self.keys[layer], self.values[layer]

    def with_encoded(
        self, pairs: Sequence[tuple[jax.Array, jax.Array]], segments: jax.Array | None
    ) -> "Cache":
        """Stores each layer's keys and values of the encoder's output, [B, E, N, K]."""
        keys = tuple(k.transpose(0, 2, 3, 1) for k, _ in pairs)
        values = tuple(v.swapaxes(1, 2) for _, v in pairs)
        return replace(self, cross_keys=keys, cross_values=values, encoder_segments=segments)

    def read_encoded(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Returns keys [B, N, K, E] and values [B, N, E, K] of the encoder's output in a layer."""
        return self.cross_keys[layer], self.cross_values[layer]

    def grown(self, length: int) -> "Cache":
        """Returns the cache extended to `length` positions."""
        padding = (0, length - self.length)

        def pad(arrays: Arrays, axis: int) -> Arrays:
            widths = [padding if dimension == axis else (0, 0) for dimension in range(4)]
            return tuple(jnp.pad(array, widths) for array in arrays)

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

    def zeros(shape: tuple[int, ...], axes: Axes) -> Arrays:
        spec, layers = mesh.out_sharding(*axes), range(config.num_decoder_layers)
        return tuple(jnp.zeros(shape, dtype, out_sharding=spec) for _ in layers)

    keys, values = (zeros(*pair) for pair in zip(shapes, cache_axes(axis), strict=True))
    return Cache(keys, values, heads=axis)
