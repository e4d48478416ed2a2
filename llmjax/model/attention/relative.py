"""Relative position biases of attention scores (T5, arXiv:1910.10683, section 2.1)."""

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention.mask import Mask
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import ActivationSharding, normal
from llmjax.model.products import einsum
from llmjax.parallel import mesh


class RelativeBias(nnx.Module):
    """A learned bias per head and distance bucket, shared by the layers of a stack."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        shape = (config.relative_buckets, config.num_heads)
        self.rows = normal(rngs, shape, (None, "heads"), compute.init_std)
        self.max_distance = config.relative_max_distance

    def __call__(
        self, mask: Mask, queries: int, keys: int, sharding: ActivationSharding
    ) -> jax.Array:
        """[B or 1, H, T, S] float32."""
        count = self.rows.shape[0]
        index = buckets(mask.distance(queries, keys), count, self.max_distance, mask.causal)
        # A product instead of a look-up, so that the derivative is a product, split over heads.
        one_hot = jax.nn.one_hot(index, count, dtype=jnp.float32)
        bias = einsum("bqkn,nh->bhqk", one_hot, self.rows[...])
        batch = "batch" if mask.index is not None else None
        return mesh.reshard(bias, batch, "heads", sharding.length, None)


def buckets(distance: jax.Array, count: int, max_distance: int, causal: bool) -> jax.Array:
    """Returns distance buckets: half are single small distances, half grow logarithmically.

    Args:
      distance: int32, the query's index less the key's.
      count: number of buckets; if not causal, half are for keys behind and half for keys ahead.
      max_distance: distances from this on share the last bucket.
      causal: whether keys ahead count as distance 0.

    Returns:
      int32 of the same shape, from 0 to count - 1.
    """
    first = jnp.zeros_like(distance)
    if not causal:
        count //= 2
        first = jnp.where(distance < 0, count, 0)
        distance = jnp.abs(distance)
    distance = jnp.maximum(distance, 0)
    exact = count // 2
    growth = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact)
    steps = growth / jnp.log(jnp.float32(max_distance / exact)) * (count - exact)
    far = jnp.minimum(exact + steps.astype(jnp.int32), count - 1)
    return first + jnp.where(distance < exact, distance, far)
