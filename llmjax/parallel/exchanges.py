"""Exchanges between the devices that split a logical axis, inside `mesh.per_device`."""

from collections.abc import Sequence
from typing import TypeVar

import jax

from llmjax.parallel import mesh

Tree = TypeVar("Tree")


def pass_on(arrays: Tree, axis: str) -> Tree:
    """Sends a tree of arrays to the next device along a logical axis, and from the last to the
    first, in a ring: returns that of the device before."""
    count = mesh.parts(axis)
    return permute(arrays, axis, [(device + 1) % count for device in range(count)])


def permute(arrays: Tree, axis: str, targets: Sequence[int]) -> Tree:
    """Sends a tree of arrays from the part i of a logical axis to the part `targets[i]`."""
    names = mesh.mesh_axes(axis)
    if not names:
        return arrays
    pairs = list(enumerate(targets))
    return jax.tree.map(lambda x: jax.lax.ppermute(x, names, pairs), arrays)


def all_to_all(x: jax.Array, axis: str, split: int, joined: int) -> jax.Array:
    """Splits the dimension `split` over the devices of a logical axis, and joins `joined`, which
    they had split."""
    names = mesh.mesh_axes(axis)
    return jax.lax.all_to_all(x, names, split, joined, tiled=True) if names else x
