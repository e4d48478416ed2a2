"""Collectives of a compiled program: their kinds, mesh axes, and bytes."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmjax.parallel.hlo import Executed, Instruction, Program
from llmjax.parallel.topology import slice_indices

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)

SCATTER = "all-reduce-scatter"
"""How the name of a fusion begins that TPU compilers make of a reduce-scatter."""

_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}")
_MESH_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?(?::\((\d+)\)(\d+))?")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?")
_LIST = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")


@dataclass(frozen=True)
class Collective:
    """A collective of a program."""

    kind: str
    """One of `KINDS`."""
    axes: tuple[str, ...]
    """The mesh axes whose devices take part."""
    devices: int
    """How many take part in one."""
    slices: int
    """How many slices these devices are of."""
    times: int
    """How often a device runs it in one run of the program."""
    nbytes: float
    """Bytes of its arrays before scattering, or after gathering, of one device, once."""
    is_async: bool = False
    """Whether the compiler lets it run beside other work: it is started and awaited, or runs
    inside the fusion of a product."""

    @property
    def total_bytes(self) -> float:
        """`nbytes` of all its runs."""
        return self.nbytes * self.times

    @property
    def wire_bytes(self) -> float:
        """Bytes that a device sends in all runs, if devices form a ring: (n - 1) / n of the array
        in a gather, a scatter or an exchange, and twice that in an all-reduce."""
        if self.kind == "collective-permute":
            return self.total_bytes
        shares = 2 if self.kind == "all-reduce" else 1
        return shares * self.total_bytes * (self.devices - 1) / self.devices


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """The collectives of a program that was compiled for a mesh, in no particular order.

    Args:
      text: `compiled.as_text()`.
      mesh: the devices in the order of the program's partitions.
    """
    slices = slice_indices(mesh.devices)
    found: dict[tuple[str, str, str], Collective] = {}
    for each in Program(text).executed():
        instruction = each.instruction
        if between := _TRANSFER.search(instruction.text):
            if instruction.opcode == "send":
                found[_identity(each)] = _between_slices(each, between[1], mesh, slices)
            continue
        if (kind := instruction.opcode.removesuffix("-start")) not in KINDS:
            continue
        groups = _groups(instruction.text, mesh.size)
        axes, devices, crossed = _taking_part(groups, mesh, slices)
        if kind == "all-reduce" and each.computation.startswith(SCATTER):
            kind = "reduce-scatter"  # as TPU compilers write it: the fusion's result is a part
        is_async = instruction.opcode.endswith("-start") or each.computation != each.scheduled
        nbytes = _nbytes(instruction, kind, devices)
        found[_identity(each)] = Collective(
            kind, axes, devices, crossed, each.times, nbytes, is_async
        )
    return [each for each in found.values() if each.devices > 1]


def summed(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """Sums `times` and `wire_bytes` of collectives of the same kind, axes, devices, slices, and
    whether other work runs beside them ("hidden"): as plain data, the most bytes first."""
    sums: dict[tuple, list[float]] = defaultdict(lambda: [0, 0.0])
    for each in found:
        axes = " x ".join(each.axes)
        total = sums[each.kind, axes, each.devices, each.slices, each.is_async]
        total[0] += each.times
        total[1] += each.wire_bytes
    names = ("kind", "axes", "devices", "slices", "hidden", "times", "wire_bytes")
    rows = [dict(zip(names, (*key, *total), strict=True)) for key, total in sums.items()]
    return sorted(rows, key=lambda row: -row["wire_bytes"])


def _between_slices(each: Executed, transfer: str, mesh: Mesh, slices: np.ndarray) -> Collective:
    """A collective of one device in each slice, which goes through the hosts' network.

    TPU compilers write it as a send and a receive, and name the kind of what happens in between.
    """
    axes = tuple(
        name for index, name in enumerate(mesh.axis_names) if np.diff(slices, axis=index).any()
    )
    kind = transfer.lower().replace("_", "-")
    count = len(set(slices.flat))
    sent = _array_bytes(*_ARRAY.findall(each.instruction.shape)[0])
    nbytes = sent * (count if kind == "all-gather" else 1)
    return Collective(kind, axes, count, count, each.times, nbytes)


def _identity(each: Executed) -> tuple[str, str, str]:
    """What is equal for the pieces of one collective, which TPU compilers spread over fusions.

    Channel 1 is shared by all collectives of a `shard_map`, and that of a scatter by its copies in
    the repetitions of an unrolled loop.
    """
    channel = _CHANNEL.search(each.instruction.text)
    shared = channel is None or channel[1] == "1" or each.computation.startswith(SCATTER)
    name = each.instruction.name if shared or channel is None else channel[1]
    return each.scheduled, each.instruction.opcode, name


def _taking_part(
    groups: list[np.ndarray], mesh: Mesh, slices: np.ndarray
) -> tuple[tuple[str, ...], int, int]:
    """(mesh axes, devices of a group, slices of a group)."""
    varying: set[int] = set()
    crossed = 1
    for group in groups:
        places = np.array(np.unravel_index(group, mesh.devices.shape))
        varying |= set(np.flatnonzero((places != places[:, :1]).any(1)).tolist())
        crossed = max(crossed, len(set(slices.flat[group].tolist())))
    axes = tuple(name for index, name in enumerate(mesh.axis_names) if index in varying)
    return axes, max(map(len, groups)), crossed


def _groups(text: str, size: int) -> list[np.ndarray]:
    """The groups of partitions that a collective is among; pairs, for a permutation."""
    if named := _MESH.search(text):
        return list(_mesh_groups(named[1], named[2], named[3], size))
    if listed := _LIST.search(text):
        return [np.array(g.split(","), int) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
    shape = text.partition("replica_groups=")[2]
    return list(_iota(shape, size)) if shape.startswith("[") else [np.arange(size)]


def _mesh_groups(axes: str, devices: str | None, used: str, size: int) -> Iterator[np.ndarray]:
    """Groups written as axes of a mesh of the compiler's own, or parts of its axes."""
    sizes = {name: int(count) for name, count, _, _ in _MESH_AXIS.findall(axes)}
    parts = {name: (pre, count) for name, _, pre, count in _MESH_AXIS.findall(used)}
    shape: list[int] = []
    chosen: list[int] = []
    for name, count in sizes.items():
        pre, width = parts.get(name, ("", ""))
        outer = int(pre) if pre else 1
        inner = int(width) if width else count
        if name in parts:
            chosen.append(len(shape) + 1)
        shape += [outer, inner, count // outer // inner]
    ids = _iota(devices, size).reshape(shape) if devices else np.arange(size).reshape(shape)
    members = math.prod(shape[index] for index in chosen)
    yield from np.moveaxis(ids, chosen, range(-len(chosen), 0)).reshape(-1, members)


def _iota(text: str, size: int) -> np.ndarray:
    """Partitions 0, 1, 2, … reshaped and transposed, such as [16,4]<=[4,16]T(1,0)."""
    found = _IOTA.match(text)
    assert found, f"unknown groups: {text[:80]}"
    shape, source, order = ([int(n) for n in x.split(",")] if x else [] for x in found.groups())
    ids = np.arange(size).reshape(source or shape)
    return (ids.transpose(order) if order else ids).reshape(shape if source else ids.shape)


def _nbytes(instruction: Instruction, kind: str, devices: int) -> float:
    """Bytes of the array before scattering, or after gathering."""
    sizes = [_array_bytes(*array) for array in _ARRAY.findall(instruction.shape)]
    if instruction.opcode.endswith("-start") and instruction.shape.startswith("("):
        if kind == "collective-permute":
            return sizes[0]
        if kind != "all-reduce":  # (operands, results)
            half = len(sizes) // 2
            return max(sum(sizes[:half]), sum(sizes[half:]))
    scattered = instruction.opcode == "reduce-scatter"
    return sum(sizes) * (devices if scattered else 1)


def _array_bytes(kind: str, bits: str, shape: str) -> float:
    """Bytes of an array of HLO, such as ("bf", "16", "8,128")."""
    width = int(bits) / 8 if bits else 1.0
    return width * math.prod(int(size) for size in shape.split(",") if size)
