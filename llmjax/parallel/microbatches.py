"""Cutting a batch into microbatches without moving rows between devices."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from llmjax.parallel import mesh


def split(x: jax.Array, count: int) -> jax.Array:
    """[B, L] -> [count, B / count, L].

    Each microbatch has rows of every device; consecutive rows would be on some devices only.
    """
    shape = (x.shape[0] // count, count, *x.shape[1:])
    if not mesh.has_mesh():
        return jnp.moveaxis(x.reshape(shape), 1, 0)
    # Stated, since JAX would infer a split over `count` where a microbatch is one row.
    rows, *rest = jax.typeof(x).sharding.spec
    spec = PartitionSpec(rows, None, *rest)
    return jnp.moveaxis(x.reshape(shape, out_sharding=spec), 1, 0)


def join(parts: jax.Array) -> jax.Array:
    """[count, B / count, L] -> [B, L], the inverse of `split`."""
    count, rows = parts.shape[:2]
    shape = (rows * count, *parts.shape[2:])
    x = jnp.moveaxis(parts, 0, 1)
    if not mesh.has_mesh():
        return x.reshape(shape)
    split, _, *rest = jax.typeof(x).sharding.spec
    return x.reshape(shape, out_sharding=PartitionSpec(split, *rest))
