"""Checksums of the bits that each device holds, computed on the devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
"""Bytes of an element -> the unsigned integer of that size."""


def shard_checksums(tree: Any) -> jax.Array:
    """Checksums of every device's shard of every leaf: uint32 [devices, leaves]; needs a mesh.

    Devices are in the mesh's order, leaves in the tree's. A checksum is the sum over the shard's
    elements, as integers, each times an odd number that depends on its place. A flip of one bit
    always changes it; nothing is communicated.
    """
    leaves = jax.tree.leaves(tree)
    specs = tuple(jax.typeof(leaf).sharding.spec for leaf in leaves)

    def local(*shards: jax.Array) -> jax.Array:
        return jnp.stack([_checksum(shard) for shard in shards])[None]

    rows = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names, None)
    return jax.shard_map(local, in_specs=specs, out_specs=rows, check_vma=False)(*leaves)


def _checksum(shard: jax.Array) -> jax.Array:
    """The checksum of an array: uint32 []."""
    flat = shard.reshape(-1)
    words = WORDS[flat.dtype.itemsize]
    bits = flat.astype(words) if flat.dtype == bool else jax.lax.bitcast_convert_type(flat, words)
    odd = 2 * jnp.arange(flat.size, dtype=jnp.uint32) + 1
    return jnp.sum(bits.astype(jnp.uint32) * odd, dtype=jnp.uint32)
