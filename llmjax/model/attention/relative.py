"""Relative positions as numbers added to attention's scores (T5, arXiv:1910.10683, section 2.1)."""

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
    """A learned number for each head and each kind of distance, shared by the layers of a stack."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        shape = (config.relative_buckets, config.num_heads)
        self.rows = normal(rngs, shape, (None, "heads"), compute.init_std)
        self.furthest = config.relative_max_distance

    def __call__(
        self, mask: Mask, queries: int, keys: int, sharding: ActivationSharding
    ) -> jax.Array:
        """[B or 1, H, T, S] float32."""
        count = self.rows.shape[0]
        kinds = buckets(mask.distance(queries, keys), count, self.furthest, mask.causal)
        # A product, not a look-up: its derivative is one too, and splits over heads by itself.
        chosen = jax.nn.one_hot(kinds, count, dtype=jnp.float32)
        bias = einsum("bqkn,nh->bhqk", chosen, self.rows[...])
        batch = "batch" if mask.index is not None else None
        return mesh.reshard(bias, batch, "heads", sharding.length, None)


def buckets(distance: jax.Array, count: int, furthest: int, causal: bool) -> jax.Array:
    """Kinds of distance: half of them for each small one, half in logarithmic steps.

    Args:
      distance: int32, how far a key lies behind its query.
      count: how many kinds; where not causal, half of them for keys behind and half for those
        ahead.
      furthest: from this distance on all are one kind.
      causal: keys ahead count as distance 0.

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
    steps = growth / jnp.log(jnp.float32(furthest / exact)) * (count - exact)
    far = jnp.minimum(exact + steps.astype(jnp.int32), count - 1)
    return first + jnp.where(distance < exact, distance, far)
