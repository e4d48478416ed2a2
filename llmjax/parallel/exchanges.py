"""Exchanges between the devices that split a logical axis: inside `mesh.per_device`, but for
`sum_over_rows`."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes
from llmjax.parallel.steps import common, names_of, scatter_steps

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


def all_gather(x: jax.Array, *axes: str | None) -> jax.Array:
    """Gathers an array that is split by `axes`."""
    for dimension, axis in enumerate(axes):
        if mesh.parts(axis) > 1:
            for names in reversed(_stages(mesh.mesh_axes(axis))):
                x = jax.lax.all_gather(x, names, axis=dimension, tiled=True)
    return x


def reduce_scatter(x: jax.Array, over: Axes, axes: Axes) -> jax.Array:
    """Sums `x` over the logical axes `over`; the result is split by `axes`.

    Dimensions that `axes` splits over summed devices are scattered, so that each device receives
    its part only; other dimensions of `x` must already be split by `axes`.
    """
    return _scattered(x, [name for axis in over for name in mesh.mesh_axes(axis)], axes)


def _scattered(x: jax.Array, over: Sequence[str], axes: Axes) -> jax.Array:
    """`reduce_scatter` over mesh axes."""
    remaining = list(over)
    for dimension, axis in enumerate(axes):
        shared = tuple(name for name in mesh.mesh_axes(axis) if name in remaining)
        for names in _stages(shared):
            x = jax.lax.psum_scatter(x, names, scatter_dimension=dimension, tiled=True)
        remaining = [name for name in remaining if name not in shared]
    return jax.lax.psum(x, tuple(remaining)) if remaining else x


def _stages(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The mesh axes of each of the collectives over `names`, outermost first."""
    if mesh.stepwise() & set(names):
        return [(name,) for name in names]
    return [names] if names else []


def sum_over_rows(
    product: Callable[[jax.Array, jax.Array, PartitionSpec | None], jax.Array],
    x: jax.Array,
    y: jax.Array,
    rows: int,
    axes: Axes,
) -> jax.Array:
    """A product that sums over rows which devices share.

    Args:
      product: of x and y, with the partition of its result.
      x: [*rows, ...].
      y: [*rows, ...].
      rows: number of their leading dimensions.
      axes: logical axes of the result.
    """
    target = mesh.out_sharding(*axes)
    if target is None or not mesh.stepwise():
        return product(x, y, target)
    specs = [jax.typeof(operand).sharding.spec for operand in (x, y)]
    shared = common(*(spec[:rows] for spec in specs))
    x, y = (
        jax.sharding.reshard(operand, PartitionSpec(*shared, *spec[rows:]))
        for operand, spec in zip((x, y), specs, strict=True)
    )
    if mesh.is_in_pipeline():
        # Sums of devices that are not added yet cannot be written beside the axes of a pipeline.
        over = [name for part in shared for name in names_of(part)]
        parts = [jax.typeof(operand).sharding.spec for operand in (x, y)]
        run = mesh.per_device(
            lambda x, y: (_scattered(product(x, y, None), over, axes),), parts, (axes,)
        )
        return run(x, y)[0]
    first, *rest = scatter_steps(shared, target, mesh.stepwise())
    result = product(x, y, first)
    for spec in rest:
        result = jax.sharding.reshard(result, spec)
    return result
