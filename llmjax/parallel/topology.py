"""Arranges devices in a mesh: which of them are neighbours along an axis.

Devices of one slice (a TPU slice, an NVLink domain) are joined by a fast network, slices by a slow
one. An axis whose neighbours lie in different slices sends its collectives over the slow network;
that should be the one that sends least.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from llmjax.errors import UserError


def num_slices(devices: Sequence[Any]) -> int:
    """The number of slices that the devices belong to."""
    return len(_by_slice(devices))


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
