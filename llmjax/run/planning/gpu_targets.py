"""What NVIDIA's compiler needs to know of a GPU that is not there, as XLA's GpuTargetConfig."""

from dataclasses import dataclass

from llmjax.errors import UserError


@dataclass(frozen=True)
class Target:
    """Properties that CUDA reports of a GPU."""

    description: str
    cores: int
    """Streaming multiprocessors."""
    clock_ghz: float
    memory: int
    bandwidth: int
    l2_cache: int
    shared_per_core: int
    shared_per_block: int
    capability: tuple[int, int]


TARGETS: dict[str, Target] = {
    "a100": Target(
        "NVIDIA A100-SXM4-80GB", 108, 1.41, 85_086_240_768, 2_039_000_000_000, 41_943_040,
        167_936, 166_912, (8, 0)
    ),
    "h100": Target(
        "NVIDIA H100 80GB HBM3", 132, 1.98, 84_978_434_048, 3_352_320_000_000, 52_428_800,
        233_472, 232_448, (9, 0)
    ),
    "h200": Target(
        "NVIDIA H200", 132, 1.98, 150_000_000_000, 4_800_000_000_000, 62_914_560,
        233_472, 232_448, (9, 0)
    ),
    "b200": Target(
        "NVIDIA B200", 148, 1.965, 191_000_000_000, 7_672_000_000_000, 132_644_864,
        233_472, 232_448, (10, 0)
    ),
}  # fmt: skip


def target_config(chip: str) -> str:
    """The text of a GpuTargetConfig.

    Raises:
      UserError: the GPU's properties are not known here.
    """
    if chip not in TARGETS:
        known = ", ".join(TARGETS)
        raise UserError(f"--compile for {chip}", "its properties are not known", f"known: {known}")
    target = TARGETS[chip]
    major, minor = target.capability
    return f"""gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {target.shared_per_core}
  threads_per_core_limit: 2048
  core_count: {target.cores}
  fpus_per_core: {64 if major == 8 else 128}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {target.bandwidth}
  l2_cache_size: {target.l2_cache}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {target.memory}
  shared_memory_per_block_optin: {target.shared_per_block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{target.description}"
"""
