"""What a decoder remembers between steps: the keys and values of every token so far."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.mesh import Axes
from llmjax.model.config import ModelConfig

# Heads stand before slots, so that a step's products read each head's keys in one go: with the two
# the other way round, a step of 32 rows on a CPU takes twice as long.
CACHE_AXES: Axes = (None, "batch", "kv_heads", None, "head_dim")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values, [layers, B, N, S, K] in the compute dtype; slot s holds position s.

    bfloat16 is stored as the uint16 of the same bits. A CPU scatters no bfloat16: it would turn the
    whole cache into float32 and back at every step (eight times the time, at 32 rows).
    """

    keys: jax.Array
    values: jax.Array
    cross_keys: jax.Array | None = None
    """Of the encoder's output, [layers, B, N, E, K]; None for a decoder alone."""
    cross_values: jax.Array | None = None
    encoder_segments: jax.Array | None = None
    """[B, E] int32, 0 for padding; None where there is none."""

    @property
    def length(self) -> int:
        """How many positions fit."""
        return self.keys.shape[3]

    def write(self, layer: jax.Array, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Stores k, v [B, T, N, K] of one layer at slots `positions` [B, T], row by row."""
        new = ("batch", None, "kv_heads", "head_dim")
        write = mesh.per_device(_write, (CACHE_AXES, (), ("batch", None), new), (CACHE_AXES,))
        keys = write(self.keys, layer, positions, _stored(k))[0]
        values = write(self.values, layer, positions, _stored(v))[0]
        return replace(self, keys=keys, values=values)

    def read(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, [B, S, N, K]."""
        return _layer(self.keys, layer), _layer(self.values, layer)

    def with_encoded(self, k: jax.Array, v: jax.Array, segments: jax.Array | None) -> "Cache":
        """Remembers keys and values for the encoder's output, [layers, B, E, N, K]."""
        k, v = (_stored(x).swapaxes(2, 3) for x in (k, v))
        return replace(self, cross_keys=k, cross_values=v, encoder_segments=segments)

    def read_encoded(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer for the encoder's output, [B, E, N, K]."""
        assert self.cross_keys is not None
        assert self.cross_values is not None
        return _layer(self.cross_keys, layer), _layer(self.cross_values, layer)

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
    return (store.at[layer, rows, :, positions].set(new, mode="drop"),)


def _stored(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def _layer(store: jax.Array, layer: jax.Array) -> jax.Array:
    """[layers, B, N, S, K] as stored -> [B, S, N, K] as computed with."""
    x = store[layer]
    if x.dtype == jnp.uint16:
        x = jax.lax.bitcast_convert_type(x, jnp.bfloat16)
    return x.swapaxes(1, 2)


def empty(config: ModelConfig, batch: int, length: int) -> Cache:
    """A cache for `length` positions of `batch` rows."""
    shape = (config.num_decoder_layers, batch, config.kv_heads, length, config.head_width)
    dtype = jnp.uint16 if config.compute_dtype == "bfloat16" else jnp.float32
    spec = mesh.out_sharding(*CACHE_AXES)
    keys, values = (jnp.zeros(shape, dtype, out_sharding=spec) for _ in "kv")
    return Cache(keys, values)
