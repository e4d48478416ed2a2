"""The devices that a plan is for: what joins them, and how fast."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import jax

from llmjax.errors import UserError
from llmjax.parallel.chips import CHIPS, Chip, chip_of
from llmjax.parallel.devices import devices as all_devices
from llmjax.run.environment import memory

COMPILER_NAMES = {"v7x": "tpu7x"}
"""How TPU compilers name chips that they name otherwise."""

_TEXT = re.compile(r"([a-z0-9\-]+):(\d+(?:x\d+)*)")


@dataclass(frozen=True)
class Topology:
    """Devices of one kind."""

    name: str
    """As the user writes it, such as v5e:16x16; cpu."""
    chip: Chip | None
    """None: CPU devices, or an accelerator that is not in the table."""
    shape: tuple[int, ...]
    """Of a slice: chips along each dimension of the torus. GPU: hosts (or NVLink domains) and GPUs
    of each."""
    slices: int = 1
    kind: str = "CPU"
    """Of a device, for people."""
    platform: str = "cpu"

    @property
    def chips(self) -> int:
        """Of all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """JAX's devices, of all slices."""
        return self.chips * (self.chip.devices_per_chip if self.chip else 1)

    @property
    def memory(self) -> int | None:
        """Bytes of one device that programs can use; CPU devices share the machine's. None:
        unknown."""
        if self.chip is not None:
            return self.chip.memory
        total = memory() if self.platform == "cpu" else None
        return None if total is None else total // self.devices

    @property
    def domain(self) -> int:
        """Devices that a fast network joins: those of a slice, or of an NVLink domain."""
        return self.devices // self.slices if self.platform == "tpu" else self.shape[-1]

    def bandwidths(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Bytes per second that a device sends in collectives along each axis of a mesh.

        The last axis runs through neighbours. An axis of a torus takes whole dimensions if it can,
        since each adds its links; a ring of part of a dimension has no link back. Between domains,
        the devices of an axis in one domain send at the same time, each over its own network card.

        Args:
          sizes: axis -> devices, by increasing amount of communication.
        """
        assert self.chip is not None
        found, left, inside = dict[str, float](), list(self.shape), self.domain
        for axis in reversed(list(sizes)):
            size = sizes[axis]
            within = math.gcd(size, inside)
            inside //= within
            link = self._torus_link(left, within) if self.platform == "tpu" else self.chip.link
            found[axis] = link if within == size else self.chip.network * within
            if 1 < within < size:
                found[axis] = min(link, found[axis])
        return found

    def exchange_bandwidth(self, size: int, bandwidth: float) -> float:
        """Bytes per second that a device sends in an all-to-all along an axis.

        What a torus carries passes through other devices: in a ring of n, n / 4 on average. Between
        domains, each device has its own network card, and no other of its domain can send for it.

        Args:
          size: devices of the axis.
          bandwidth: in other collectives.
        """
        assert self.chip is not None
        if self.platform != "tpu":
            return min(bandwidth, self.chip.network) if size > self.domain else bandwidth
        ring = size ** (1 / max(1.0, bandwidth / self.chip.link))
        return bandwidth * min(1.0, 4 / ring)

    def _torus_link(self, left: list[int], size: int) -> float:
        """Bandwidth of an axis in a torus, whose dimensions are taken from those left."""
        assert self.chip is not None
        size = max(1, size // self.chip.devices_per_chip)
        for count in range(1, len(left) + 1):
            for chosen in combinations(range(len(left)), count):
                if size > 1 and math.prod(left[index] for index in chosen) == size:
                    full = sum(0.5 + 0.5 * self.chip.wraps(left[index]) for index in chosen)
                    for index in chosen:
                        left[index] = 1
                    return self.chip.link * full
        for index, dimension in enumerate(left):
            if size > 1 and dimension % size == 0:
                left[index] //= size
                break
        return self.chip.link / 2


def compiler_topology(name: str) -> str:
    """The name by which TPU compilers know a topology, such as tpu7x:4x4x4 for v7x:4x4x4."""
    chip, colon, sizes = name.partition(":")
    return COMPILER_NAMES.get(chip, chip) + colon + sizes


def parse_topology(text: str, slices: int = 1) -> Topology:
    """The topology of a text such as v5e:16x16, v5p:4x4x4, h100:2x8 (hosts x GPUs) or cpu.

    Raises:
      UserError: the text is wrong, or the chip is not known.
    """
    if text == "cpu":
        return Topology("cpu", None, (1,))
    match = _TEXT.fullmatch(text.lower())
    if match is None:
        fix = "write CHIP:SIZES, such as v5e:16x16, v5p:4x4x4, h100:2x8 (hosts x GPUs); or cpu"
        raise UserError(f"--topology {text}", "is no topology", fix)
    if match[1] not in CHIPS:
        known = ", ".join(CHIPS)
        raise UserError(f"--topology {text}", f"{match[1]} is not known", f"choose one of {known}")
    chip, shape = CHIPS[match[1]], tuple(map(int, match[2].split("x")))
    _check_shape(text, chip, shape)
    if slices < 1 or (slices > 1 and chip.platform == "gpu"):
        fix = "is at least 1, and for TPUs only: hosts of GPUs are written as h100:2x8"
        raise UserError(f"--slices {slices}", fix)
    if chip.platform == "gpu" and len(shape) == 1:
        hosts = math.gcd(shape[0], chip.domain)
        shape = (1, shape[0]) if shape[0] <= chip.domain else (shape[0] // hosts, hosts)
    return Topology(text.lower(), chip, shape, slices, chip.kinds[0], chip.platform)


def _check_shape(text: str, chip: Chip, shape: Sequence[int]) -> None:
    wanted = (chip.dimensions,) if chip.platform == "tpu" else (1, 2)
    if len(shape) not in wanted or min(shape) < 1 or math.prod(shape) > 2**20:
        example = "h100:2x8 (hosts x GPUs)"
        if chip.platform == "tpu":
            example = f"{chip.name}:{'x'.join(['4'] * chip.dimensions)}"
        fix = f"write positive sizes, such as {example}"
        raise UserError(f"--topology {text}", f"{chip.name} has no such slice", fix)


def present_topology() -> Topology:
    """The devices of this process's JAX: accelerators, or CPU devices."""
    devices: list[jax.Device] = all_devices()
    first = devices[0]
    platform = "gpu" if first.platform in ("gpu", "cuda", "rocm") else first.platform
    chip = chip_of(first.device_kind)
    count, kind = len(devices), "CPU" if platform == "cpu" else first.device_kind
    if chip is None:
        return Topology(platform if platform == "cpu" else kind, None, (count,), 1, kind, platform)
    if platform == "tpu":
        places = [getattr(device, "coords", (index,)) for index, device in enumerate(devices)]
        sizes = tuple(max(axis) + 1 for axis in zip(*places, strict=True))
        shape = tuple(sizes[: chip.dimensions])
        slices = max(1, count // (math.prod(shape) * chip.devices_per_chip))
    else:
        hosts = max(1, jax.process_count())
        shape, slices = (hosts, max(1, count // hosts)), 1
    name = f"{chip.name}:{'x'.join(map(str, shape))}"
    return Topology(name, chip, shape, slices, kind, platform)
