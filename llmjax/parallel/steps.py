"""Partitions between two, so that a collective over several mesh axes becomes one for each."""

from collections.abc import Collection, Sequence

from jax.sharding import PartitionSpec

Part = str | tuple[str, ...] | None


def gather_steps(
    source: PartitionSpec, target: PartitionSpec, stepwise: Collection[str]
) -> list[PartitionSpec]:
    """Partitions to reshard to, one after another, of which `target` is the last.

    Each of the mesh axes `stepwise` that splits `source` and not `target` is gathered in a step of
    its own, innermost first, so that each device has a contiguous part after every step.
    """
    parts = [names_of(part) for part in source]
    kept = {name for part in target for name in names_of(part)}
    gathered = [name for part in parts for name in part if name in stepwise and name not in kept]
    steps = []
    for name in gathered[:0:-1]:
        parts = [tuple(other for other in part if other != name) for part in parts]
        steps.append(PartitionSpec(*map(_part, parts)))
    return [*steps, target]


def scatter_steps(
    rows: Sequence[Part], target: PartitionSpec, stepwise: Collection[str]
) -> list[PartitionSpec]:
    """Partitions of a sum over rows, from each device's own sum to `target`.

    Each of the mesh axes `stepwise` that splits both the rows and `target` is scattered in a step
    of its own, outermost first; the last step adds what remains, on the smallest arrays.

    Args:
      rows: parts of the dimensions that are summed over.
      target: the partition of the result.
      stepwise: mesh axes.
    """
    summed = [name for part in rows for name in names_of(part)]
    parts = [names_of(part) for part in target]
    scattered = [name for part in parts for name in part if name in summed]
    steps = []
    for count in range(len(scattered) + 1):
        later = set(scattered[count:])
        if count and scattered[count - 1] not in stepwise:
            continue
        left = [name for name in summed if name not in scattered[:count]]
        split = [_part(tuple(name for name in part if name not in later)) for part in parts]
        steps.append(PartitionSpec(*split, unreduced=frozenset(left)))
    return [*(step for step in steps if step.unreduced), target]


def common(a: Sequence[Part], b: Sequence[Part]) -> list[Part]:
    """The mesh axes that split both of two arrays, dimension by dimension."""
    pairs = zip(map(names_of, a), map(names_of, b), strict=True)
    return [_part(tuple(name for name in x if name in y)) for x, y in pairs]


def leading_steps(
    source: PartitionSpec, ndim: int, mesh_axes: Sequence[str]
) -> list[PartitionSpec]:
    """Partitions from `source` to one that splits only the first dimension, over all mesh axes.

    Each step moves one mesh axis, innermost first, and is therefore an all-to-all; the last step
    adds unused axes and only slices. Reverse the list to return.
    """
    parts = [names_of(part) for part in (*source, *[None] * (ndim - len(source)))]
    specs = [PartitionSpec(*parts)]
    for part in range(1, ndim):
        while parts[part]:
            parts[0] += parts[part][-1:]
            parts[part] = parts[part][:-1]
            specs.append(PartitionSpec(*parts))
    parts[0] += tuple(axis for axis in mesh_axes if axis not in parts[0])
    return [*specs, PartitionSpec(*parts)]


def names_of(part: Part) -> tuple[str, ...]:
    """The mesh axes of one part of a partition."""
    return (part,) if isinstance(part, str) else tuple(part or ())


def _part(names: tuple[str, ...]) -> Part:
    return names[0] if len(names) == 1 else (names or None)
