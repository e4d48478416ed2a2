"""What a decoder remembers between steps: the keys and values of every token so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from llmjax import mesh
from llmjax.mesh import Axes
from llmjax.model.config import ModelConfig

# Heads stand before slots, so that a step's products read each head's keys in one go.
CACHE_AXES: Axes = ("batch", "kv_heads", None, "head_dim")

Arrays = tuple[jax.Array, ...]
"""An array for each layer, so that each is written in place and read where it lies."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values, of each layer [B, N, S, K]; slot s holds position s.

    They are of the compute dtype, but float32 on a CPU: it scatters no bfloat16 without turning all
    of it into float32 and back, and multiplies a few rows of it three times as slowly.
    """

    keys: Arrays
    values: Arrays
    cross_keys: Arrays = ()
    """Of the encoder's output, [B, N, E, K] each; none for a decoder alone."""
    cross_values: Arrays = ()
    encoder_segments: jax.Array | None = None
    """[B, E] int32, 0 for padding; None where there is none."""

    @property
    def length(self) -> int:
        """How many positions fit."""
        return self.keys[0].shape[2]

    def write(self, layer: int, positions: jax.Array, k: jax.Array, v: jax.Array) -> "Cache":
        """Stores k, v [B, T, N, K] of one layer at slots `positions` [B, T], row by row."""
        new = ("batch", None, "kv_heads", "head_dim")
        write = mesh.per_device(_write, (CACHE_AXES, ("batch", None), new), (CACHE_AXES,))
        keys = write(self.keys[layer], positions, k)[0]
        values = write(self.values[layer], positions, v)[0]
        return replace(
            self, keys=_with(self.keys, layer, keys), values=_with(self.values, layer, values)
        )

    def read(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, [B, N, S, K]."""
        return self.keys[layer], self.values[layer]

    def with_encoded(
        self, pairs: Sequence[tuple[jax.Array, jax.Array]], segments: jax.Array | None
    ) -> "Cache":
        """Remembers each layer's keys and values for the encoder's output, [B, E, N, K]."""
        keys, values = (tuple(x.swapaxes(1, 2) for x in kind) for kind in zip(*pairs, strict=True))
        return replace(self, cross_keys=keys, cross_values=values, encoder_segments=segments)

    def read_encoded(self, layer: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer for the encoder's output, [B, N, E, K]."""
        return self.cross_keys[layer], self.cross_values[layer]

    def take(self, rows: jax.Array) -> "Cache":
        """The given rows of this cache, [R] int32, each as often as it is named."""

        def pick(array: jax.Array) -> jax.Array:
            axes = CACHE_AXES if array.ndim == 4 else ("batch", None)
            return array.at[rows].get(out_sharding=mesh.out_sharding(*axes))

        return jax.tree.map(pick, self)


def _write(store: jax.Array, positions: jax.Array, new: jax.Array) -> tuple[jax.Array]:
    rows = jnp.arange(store.shape[0])[:, None]
    return (store.at[rows, :, positions].set(new.astype(store.dtype), mode="drop"),)


def _with(arrays: Arrays, layer: int, new: jax.Array) -> Arrays:
    return (*arrays[:layer], new, *arrays[layer + 1 :])


def empty(config: ModelConfig, batch: int, length: int) -> Cache:
    """A cache for `length` positions of `batch` rows."""
    shape = (batch, config.kv_heads, length, config.head_width)
    dtype = "float32" if mesh.platform() == "cpu" else config.compute_dtype
    spec, layers = mesh.out_sharding(*CACHE_AXES), range(config.num_decoder_layers)
    keys, values = (tuple(jnp.zeros(shape, dtype, out_sharding=spec) for _ in layers) for _ in "kv")
    return Cache(keys, values)
