"""Accelerators: peak FLOP/s, memory, and the links between chips, from their data sheets.

All numbers are those of one JAX device. That is a chip, but for TPU v2, v3 and v7x, where it is one
of a chip's two cores. Bandwidths are in bytes per second.
"""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

NarrowDtype = Literal["int8", "fp8"]
"""Operands of 8 bits."""

GOOGLE = "https://cloud.google.com/tpu/docs/"
SCALING = "https://jax-ml.github.io/scaling-book/tpus"
NVIDIA = "https://www.nvidia.com/en-us/data-center/"
DGX = "https://docs.nvidia.com/dgx/"


@dataclass(frozen=True)
class Chip:
    """An accelerator. None: unknown."""

    name: str
    """As topologies name it, such as v5e or h100."""
    platform: Literal["tpu", "gpu"]
    kinds: tuple[str, ...]
    """`jax.Device.device_kind` of its devices."""
    flops: float
    """Dense bfloat16 matrix products with float32 accumulation, FLOP/s."""
    memory: int
    """Bytes that programs can use."""
    bandwidth: float
    """Of its memory."""
    link: float
    """To its neighbours. TPU: along one dimension of the torus, both directions together. GPU: to
    those of its domain (NVLink, else PCIe), one way."""
    network: float
    """To other slices or domains, one way."""
    source: str
    """Where the numbers are from."""
    dimensions: int = 1
    """Of the torus; 1: a switch."""
    domain: int = 8
    """GPU: devices that NVLink or a host joins."""
    int8_flops: float | None = None
    """Dense int8 products with int32 accumulation; None: no faster than bfloat16, or none."""
    fp8_flops: float | None = None
    """Dense float8 products; None: as above."""
    clock: float | None = None
    """TPU: Hz, in which compilers estimate cycles: peak / (FLOPs per cycle of the matrix units)."""
    devices_per_chip: int = 1

    def narrow_flops(self, dtype: NarrowDtype) -> float | None:
        """Peak of products of this dtype; None: no faster than bfloat16, or none."""
        return self.int8_flops if dtype == "int8" else self.fp8_flops

    def wraps(self, size: int) -> bool:
        """Whether a dimension of this size of a slice closes to a ring."""
        return size == 16 if self.dimensions == 2 else size % 4 == 0


# fmt: off
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v2", "tpu", ("TPU v2",), 22.5e12, 8 * GIB, 350e9, 6.2e10, 3.1e9, GOOGLE + "v2", 2,
             devices_per_chip=2),
        Chip("v3", "tpu", ("TPU v3",), 61.5e12, 16 * GIB, 450e9, 8.2e10, 3.1e9, GOOGLE + "v3", 2,
             devices_per_chip=2),
        Chip("v4", "tpu", ("TPU v4",), 275e12, 31 * GIB, 1.2e12, 9e10, 6.25e9,
             GOOGLE + "v4, " + SCALING, 3, clock=1.05e9),
        Chip("v5e", "tpu", ("TPU v5 lite", "TPU v5e"), 197e12, int(15.75 * GIB), 8.1e11, 9e10,
             3.1e9, GOOGLE + "v5e, " + SCALING, 2, int8_flops=394e12, clock=1.503e9),
        Chip("v5p", "tpu", ("TPU v5", "TPU v5p"), 459e12, int(95.74 * GIB), 2.765e12, 1.8e11,
             6.25e9, GOOGLE + "v5p, " + SCALING, 3, int8_flops=918e12, clock=1.751e9),
        Chip("v6e", "tpu", ("TPU v6 lite", "TPU v6e"), 918e12, int(31.25 * GIB), 1.64e12, 1.8e11,
             12.5e9, GOOGLE + "v6e, " + SCALING, 2, int8_flops=1836e12, clock=1.751e9),
        Chip("v7x", "tpu", ("TPU7x",), 1153.5e12, 94 * GIB, 3.69e12, 1.8e11, 12.5e9,
             GOOGLE + "tpu7x", 3, fp8_flops=2307e12, clock=2.2e9, devices_per_chip=2),
        Chip("a10", "gpu", ("NVIDIA A10",), 125e12, 22 * GIB, 6e11, 3.2e10, 1.25e10,
             NVIDIA + "products/a10-gpu/", int8_flops=250e12),
        Chip("a100-40", "gpu", ("NVIDIA A100-SXM4-40GB",), 312e12, 39 * GIB, 1.555e12, 3e11, 2.5e10,
             NVIDIA + "a100/, " + DGX + "dgxa100-user-guide", int8_flops=624e12),
        Chip("a100-pcie-40", "gpu", ("NVIDIA A100-PCIE-40GB",), 312e12, 39 * GIB, 1.555e12, 3.2e10,
             2.5e10, NVIDIA + "a100/", int8_flops=624e12),
        Chip("a100", "gpu", ("NVIDIA A100-SXM4-80GB",), 312e12, 79 * GIB, 2.039e12, 3e11, 2.5e10,
             NVIDIA + "a100/, " + DGX + "dgxa100-user-guide", int8_flops=624e12),
        Chip("a100-pcie", "gpu", ("NVIDIA A100 80GB PCIe",), 312e12, 79 * GIB, 1.935e12, 3.2e10,
             2.5e10, NVIDIA + "a100/", int8_flops=624e12),
        Chip("l4", "gpu", ("NVIDIA L4",), 121e12, 22 * GIB, 3e11, 3.2e10, 1.25e10, NVIDIA + "l4/",
             int8_flops=242e12, fp8_flops=242e12),
        Chip("l40s", "gpu", ("NVIDIA L40S",), 362e12, 44 * GIB, 8.64e11, 3.2e10, 2.5e10,
             NVIDIA + "l40s/", int8_flops=733e12, fp8_flops=733e12),
        Chip("h100-pcie", "gpu", ("NVIDIA H100 PCIe",), 756e12, 79 * GIB, 2e12, 6.4e10, 5e10,
             NVIDIA + "h100/", int8_flops=1513e12, fp8_flops=1513e12),
        Chip("h100-nvl", "gpu", ("NVIDIA H100 NVL",), 835e12, 93 * GIB, 3.9e12, 6.4e10, 5e10,
             NVIDIA + "h100/", int8_flops=1671e12, fp8_flops=1671e12),
        Chip("h100", "gpu", ("NVIDIA H100 80GB HBM3",), 989e12, 79 * GIB, 3.35e12, 4.5e11, 5e10,
             NVIDIA + "h100/, " + DGX + "dgxh100-user-guide", int8_flops=1979e12,
             fp8_flops=1979e12),
        Chip("gh200", "gpu", ("NVIDIA GH200 480GB",), 989e12, 94 * GIB, 4e12, 4.5e11, 5e10,
             NVIDIA + "grace-hopper-superchip/", domain=1, int8_flops=1979e12, fp8_flops=1979e12),
        Chip("h200", "gpu", ("NVIDIA H200",), 989e12, 139 * GIB, 4.8e12, 4.5e11, 5e10,
             NVIDIA + "h200/, " + DGX + "dgxh100-user-guide", int8_flops=1979e12,
             fp8_flops=1979e12),
        Chip("b200", "gpu", ("NVIDIA B200",), 2250e12, 178 * GIB, 8e12, 9e11, 5e10,
             NVIDIA + "dgx-b200/", int8_flops=4500e12, fp8_flops=4500e12),
        Chip("gb200", "gpu", ("NVIDIA GB200",), 2500e12, 184 * GIB, 8e12, 9e11, 5e10,
             NVIDIA + "gb200-nvl72/", domain=72, int8_flops=5000e12, fp8_flops=5000e12),
    )
}
# fmt: on
"""By name. Memory is what drivers and the runtime leave, which is less than what is sold."""

_BY_KIND = {kind: chip for chip in CHIPS.values() for kind in chip.kinds}


def chip_of(kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if it is not in the table."""
    return _BY_KIND.get(kind)
