"""Arranges devices in a mesh: which of them are neighbours along an axis.

Devices of one slice (a TPU slice, an NVLink domain) are joined by a fast network, slices by a slow
one. An axis whose neighbours lie in different slices sends its collectives over the slow network;
that should be the one that sends least.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import mesh_utils

from llmjax.errors import UserError


def num_slices(devices: Sequence[Any]) -> int:
    """The number of slices that the devices belong to."""
    return len(_by_slice(devices))


def slice_indices(devices: np.ndarray) -> np.ndarray:
    """The slice of each device, in the shape of the devices."""
    return np.array([_slice(device) for device in devices.flat]).reshape(devices.shape)


def arrange(
    devices: Sequence[Any], sizes: Mapping[str, int], across_slices: str | None
) -> np.ndarray:
    """Arranges devices in a mesh.

    Args:
      devices: jax.Devices, as many as the product of the sizes.
      sizes: of each axis, by increasing amount of communication.
      across_slices: the axis between slices; None: the first ones that divide over them.

    Returns:
      Devices, of the shape of the sizes. If there are several slices, each is a block of it.

    Raises:
      UserError: the slices differ in size, or `across_slices` does not divide over them, or JAX
        cannot map the sizes to the physical network.
    """
    slices = _by_slice(devices)
    if len(slices) == 1:
        return _arrange_slice(tuple(sizes.values()), devices)
    counts = [len(members) for members in slices]
    if min(counts) != max(counts):
        reason = f"have {min(counts)} to {max(counts)} devices each"
        fix = "give each slice as many devices as the others"
        raise UserError(f"{len(slices)} slices", reason, fix)
    outer = _between(sizes, len(slices), across_slices)
    inner = tuple(size // outer[axis] for axis, size in sizes.items())
    blocks = np.empty(len(slices), object)
    blocks[:] = [_arrange_slice(inner, members) for members in slices]
    return np.block(blocks.reshape(tuple(outer.values())).tolist())


def _by_slice(devices: Sequence[Any]) -> list[list[Any]]:
    """The devices of each slice, by its index."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(_slice(device), []).append(device)
    return [slices[index] for index in sorted(slices)]


def _slice(device: Any) -> int:
    """A device's slice; where the platform knows none (CPU), its process."""
    index = getattr(device, "slice_index", None)
    if index is not None:
        return int(index)
    return int(device.process_index) if device.platform == "cpu" else 0


def _between(sizes: Mapping[str, int], slices: int, across: str | None) -> dict[str, int]:
    """The number of slices along each axis."""
    outer = dict.fromkeys(sizes, 1)
    if across is not None:
        if sizes[across] % slices:
            raise UserError(
                f"mesh {across}={sizes[across]}",
                f"does not divide over {slices} slices, which mesh.across_slices asks for",
                f"choose a multiple of {slices}, or another axis",
            )
        return outer | {across: slices}
    left = slices
    for axis, size in sizes.items():
        outer[axis] = math.gcd(size, left)
        left //= outer[axis]
    if left > 1:
        shown = ",".join(f"{axis}={size}" for axis, size in sizes.items())
        fix = f"make mesh.data a multiple of {slices}, for a copy of the model in each"
        raise UserError(f"mesh {shown}", f"does not divide over {slices} slices", fix)
    return outer


def _arrange_slice(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of one slice. A mesh axis is made of whole axes of the physical network if that
    is possible, as its collectives are fastest then."""
    try:
        return mesh_utils.create_device_mesh(shape, devices)
    except NotImplementedError:
        pass
    try:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError) as error:
        reason = f"cannot be mapped to the network of {len(devices)} {devices[0].device_kind}"
        raise UserError(f"mesh {shape}", reason, "choose other sizes") from error


class Factors(NamedTuple):
    """What an axis of a mesh runs through, as sizes whose product is that of the axis."""

    slices: int
    torus: tuple[int, ...]
    """Devices along each dimension of a slice's torus, outermost first; one number if the network
    is not known, or if the axis does not go through one dimension after the other, as in a ring."""


def factors_of(devices: np.ndarray, dimension: int) -> Factors:
    """What an axis of a mesh runs through.

    Args:
      devices: in the shape of the mesh, of which each slice is a block; TPUs have their places in
        the torus as `coords`.
      dimension: the axis.
    """
    lines = np.moveaxis(devices, dimension, 0)
    slices = len(set(slice_indices(lines.reshape(len(lines), -1)[:, 0]).tolist()))
    size = len(lines) // slices
    if any(device.platform != "tpu" for device in devices.flat):
        return Factors(slices, (size,))
    places = np.array([device.coords for device in lines.flat])
    places = places.reshape(slices, size, -1, places.shape[-1])
    moves = places - places[:, :1]
    line = moves[0, :, 0]
    found = _torus_factors(line) if (moves == line[:, None]).all() else None
    return Factors(slices, found or (size,))


def _torus_factors(line: np.ndarray) -> tuple[int, ...] | None:
    """The grid that n places [n, dimensions] make in row-major order, beginning at 0; else None."""
    factors: list[int] = []
    stride = 1
    while stride < len(line):
        (moved,) = np.nonzero(line[stride])
        leaves = np.any(np.delete(line[::stride], moved, axis=1), axis=1).tolist()
        count = leaves.index(True) if True in leaves else len(leaves)
        if len(moved) != 1 or len(line) % (stride * count):
            return None
        factors.insert(0, count)
        stride *= count
    index = np.unravel_index(np.arange(len(line)), factors) if factors else ()
    strides = [math.prod(factors[each + 1 :]) for each in range(len(factors))]
    total = sum((line[i * s] for i, s in zip(index, strides, strict=True)), np.zeros_like(line))
    return tuple(factors) if (total == line).all() else None
