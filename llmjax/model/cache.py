"""What a decoder remembers between steps: the keys and values of every token so far."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.mesh import Axes
from llmjax.model.config import ModelConfig

CACHE_AXES: Axes = (None, "batch", None, "kv_heads", "head_dim")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values, [layers, B, S, N, K] in the compute dtype; slot s holds position s."""

    keys: jax.Array
    values: jax.Array
    cross_keys: jax.Array | None = None
    """Of the encoder's output, [layers, B, E, N, K]; None for a decoder alone."""
    cross_values: jax.Array | None = None
    encoder_segments: jax.Array | None = None
    """[B, E] int32, 0 for padding; None where there is none."""

    @property
    def length(self) -> int:
        """How many positions fit."""
        return self.keys.shape[2]

    def write(self, layer: jax.Array, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Stores k, v [B, T, N, K] of one layer at slots `positions` [B, T], row by row."""
        new = ("batch", None, "kv_heads", "head_dim")
        write = mesh.per_device(_write, (CACHE_AXES, (), ("batch", None), new), (CACHE_AXES,))
        keys = write(self.keys, layer, positions, k.astype(self.keys.dtype))[0]
        values = write(self.values, layer, positions, v.astype(self.values.dtype))[0]
        return replace(self, keys=keys, values=values)

    def read(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, [B, S, N, K]."""
        return self.keys[layer], self.values[layer]

    def read_encoded(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer for the encoder's output, [B, E, N, K]."""
        assert self.cross_keys is not None
        assert self.cross_values is not None
        return self.cross_keys[layer], self.cross_values[layer]

    def take(self, rows: jax.Array) -> "Cache":
        """The given rows of this cache, [R] int32, each as often as it is named."""

        def pick(array: jax.Array) -> jax.Array:
            if array.ndim == 2:
                return array.at[rows].get(out_sharding=mesh.out_sharding("batch", None))
            return array.at[:, rows].get(out_sharding=mesh.out_sharding(*CACHE_AXES))

        return jax.tree.map(pick, self)


def _write(
    store: jax.Array, layer: jax.Array, positions: jax.Array, new: jax.Array
) -> tuple[jax.Array]:
    rows = jnp.arange(store.shape[1])[:, None]
    return (store.at[layer, rows, positions].set(new, mode="drop"),)


def empty(config: ModelConfig, batch: int, length: int) -> Cache:
    """A cache for `length` positions of `batch` rows."""
    shape = (config.num_decoder_layers, batch, length, config.kv_heads, config.head_width)
    spec = mesh.out_sharding(*CACHE_AXES)
    keys, values = (jnp.zeros(shape, config.compute_dtype, out_sharding=spec) for _ in "kv")
    return Cache(keys, values)
