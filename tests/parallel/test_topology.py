"""Devices of one and of several slices in a mesh; those that cannot be had are made up."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.parallel.mesh import MESH_AXES, MeshConfig, axis_sizes, check_divides, make_mesh
from llmjax.parallel.topology import arrange, factors_of, num_slices


@dataclass(frozen=True)
class FakeDevice:
    """What JAX's mesh builder asks a device."""

    id: int
    platform: str
    device_kind: str
    coords: tuple[int, ...] = ()
    process_index: int = 0
    core_on_chip: int = 0
    slice_index: int | None = 0


def tpus(kind, shape, slices=1):
    """As in a topology that JAX describes without devices: x varies fastest, slice by slice."""
    chips = [tuple(reversed(c)) for c in itertools.product(*(range(n) for n in reversed(shape)))]
    return [
        FakeDevice(s * len(chips) + i, "tpu", kind, coords, slice_index=s)
        for s in range(slices)
        for i, coords in enumerate(chips)
    ]


def gpus(nodes, each):
    """One process a GPU; JAX gives the GPUs of an NVLink domain one slice_index."""
    return [
        FakeDevice(i, "gpu", "NVIDIA H100", process_index=i, slice_index=i // each)
        for i in range(nodes * each)
    ]


def cpus(processes, each):
    return [
        FakeDevice(i, "cpu", "cpu", process_index=i // each, slice_index=None)
        for i in range(processes * each)
    ]


TOPOLOGIES = {
    "v5e 16x16": tpus("TPU v5 lite", (16, 16, 1)),
    "v6e 16x16": tpus("TPU v6 lite", (16, 16, 1)),
    "v5p 4x4x4": tpus("TPU v5", (4, 4, 4)),
    "2 x v5e 4x4": tpus("TPU v5 lite", (4, 4, 1), slices=2),
    "2 x v6e 8x8": tpus("TPU v6 lite", (8, 8, 1), slices=2),
    "4 x v5p 2x2x4": tpus("TPU v5", (2, 2, 4), slices=4),
    "1 node": gpus(1, 8),
    "2 nodes": gpus(2, 8),
    "8 nodes": gpus(8, 8),
    "2 processes": cpus(2, 4),
}


def sizes_of(count):
    """Meshes of all powers of two, sequence and tensor up to 8."""
    powers = [2**n for n in range(count.bit_length())]
    for data, sequence, tensor in itertools.product(powers, powers[:3], powers[:4]):
        if count % (data * sequence * tensor) == 0:
            fsdp = count // (data * sequence * tensor)
            yield dict(zip(MESH_AXES, (data, 1, fsdp, 1, sequence, tensor), strict=True))


def slice_of(device):
    return device.process_index if device.slice_index is None else device.slice_index


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_mesh_can_be_built_and_slices_are_blocks(name):
    devices = TOPOLOGIES[name]
    slices = num_slices(devices)
    built = 0
    for sizes in sizes_of(len(devices)):
        mesh = arrange(devices, sizes, None)
        assert mesh.shape == tuple(sizes.values())
        assert len(set(mesh.flat)) == len(devices)
        indices = np.vectorize(slice_of)(mesh)
        # The outermost axes divide over the slices; inner ones stay inside if the sizes allow.
        crossing = [
            axis
            for dimension, axis in enumerate(MESH_AXES)
            if np.any(np.diff(indices, axis=dimension))
        ]
        if sizes["data"] % slices == 0:
            assert crossing == (["data"] if slices > 1 else [])
        built += 1
    assert built > 5


def test_the_axis_between_slices_can_be_chosen():
    sizes = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 2}
    mesh = arrange(gpus(2, 8), sizes, "fsdp")
    indices = np.vectorize(slice_of)(mesh)
    assert indices[:, :2].max() == 0
    assert indices[:, 2:].min() == 1
    with pytest.raises(UserError, match=r"mesh sequence=1: does not divide over 2 slices, which"):
        arrange(gpus(2, 8), sizes, "sequence")


def test_what_cannot_be_built_is_one_line():
    sizes = {"data": 3, "fsdp": 5, "sequence": 1, "tensor": 1}
    with pytest.raises(UserError, match=r"data=4,fsdp=5.*does not divide over 12 slices; make"):
        arrange(gpus(12, 1), sizes | {"data": 4}, None)
    uneven = gpus(2, 8)[:15]
    with pytest.raises(UserError, match="2 slices: have 7 to 8 devices each"):
        arrange(uneven, sizes, None)


def test_the_order_of_plain_devices_is_kept():
    """Several processes of CPU devices get the mesh they always had."""
    devices = cpus(2, 4)
    for sizes in sizes_of(8):
        expected = np.array(devices, object).reshape(tuple(sizes.values()))
        if sizes["data"] % 2 == 0 or sizes["data"] * sizes["fsdp"] % 2 == 0:
            assert (arrange(devices, sizes, None) == expected).all()


def meshed(name, **sizes):
    """Devices of a topology in a mesh, with fsdp over those that no other size takes."""
    devices = TOPOLOGIES[name]
    fsdp = len(devices) // math.prod(sizes.values())
    whole = dict.fromkeys(MESH_AXES, 1) | {"fsdp": fsdp} | sizes
    return whole, arrange(devices, whole, None)


@pytest.mark.parametrize(
    ("name", "sizes", "expected"),
    [
        ("v5p 4x4x4", {}, (1, (4, 4, 4))),
        ("v5p 4x4x4", {"tensor": 2}, (1, (2, 4, 4))),
        ("v5p 4x4x4", {"data": 4}, (1, (4, 4))),
        ("v5p 4x4x4", {"data": 4, "tensor": 4}, (1, (4,))),
        ("4 x v5p 2x2x4", {}, (4, (2, 2, 4))),
        ("4 x v5p 2x2x4", {"data": 4}, (1, (2, 2, 4))),
        ("2 x v6e 8x8", {}, (2, (8, 8))),
        ("2 nodes", {}, (2, (8,))),
    ],
    ids=str,
)
def test_the_dimensions_that_an_axis_runs_through(name, sizes, expected):
    assert factors_of(meshed(name, **sizes)[1], MESH_AXES.index("fsdp")) == expected


def test_an_axis_that_winds_through_the_torus_is_one_dimension():
    """As in a ring, whose neighbours are not those of a grid."""
    ring = [(0, 0), (0, 1), (1, 1), (1, 0)]
    line = np.array([FakeDevice(i, "tpu", "TPU v5", place) for i, place in enumerate(ring)])
    assert factors_of(line, 0) == (1, (4,))
    assert factors_of(line[[0, 1, 3, 2]], 0) == (1, (2, 2))


@pytest.mark.parametrize(
    ("name", "sizes", "split"),
    [
        ("v5p 4x4x4", {}, {"fsdp": 4, "fsdp_y": 4, "fsdp_z": 4}),
        ("v5p 4x4x4", {"data": 4}, {"data": 4, "fsdp": 16}),
        ("4 x v5p 2x2x4", {}, {"fsdp_slices": 4, "fsdp": 2, "fsdp_y": 2, "fsdp_z": 4}),
        ("v5e 16x16", {}, {"fsdp": 256}),
        ("2 x v5e 4x4", {}, {"fsdp": 32}),
        ("2 nodes", {}, {"fsdp": 16}),
        ("2 processes", {}, {"fsdp": 8}),
    ],
    ids=str,
)
def test_only_an_axis_through_three_dimensions_is_split(name, sizes, split):
    """The mesh of other platforms has the axes of its config, and so has every message."""
    whole, _ = meshed(name, **sizes)
    built = make_mesh(MeshConfig(**sizes), TOPOLOGIES[name])
    assert {axis: size for axis, size in built.shape.items() if size > 1} == split
    assert axis_sizes(built) == whole
    with pytest.raises(UserError, match=rf"embed dimension of 3 .* mesh fsdp={whole['fsdp']};"):
        check_divides("w", (3,), ("embed",), built)
