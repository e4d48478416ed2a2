"""What a measurement ran on: device, driver, versions. Starts no device in this process."""

import importlib.util
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax", "torch", "triton",
    "transformers", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12",
)  # fmt: skip
PLUGINS = ("jax_cuda13_plugin", "jax_cuda12_plugin")
"""Modules with which JAX finds NVIDIA GPUs."""

PROBE = """
import jax
device = jax.devices()[0]
print(device.platform, (device.memory_stats() or {}).get("bytes_limit", 0), device.device_kind)
"""


@dataclass(frozen=True)
class Device:
    """The device that is measured."""

    kind: str
    """As JAX names it."""
    memory: float
    """Free bytes."""
    driver: str | None
    """None: unknown."""


def find_device(variables: Mapping[str, str]) -> Device | str:
    """The GPU that JAX finds, in a process of its own; or why there is none, in a line."""
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE],
            env=dict(variables), capture_output=True, text=True, timeout=90,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "JAX does not start within 90 s"
    words = probe.stdout.split(maxsplit=2)
    if probe.returncode or len(words) < 3:
        if not any(importlib.util.find_spec(name) for name in PLUGINS):
            return "jax-cuda13-plugin is not installed: pip install 'jax[cuda13]'"
        lines = [line for line in probe.stderr.splitlines() if line.strip()]
        return lines[-1].strip() if lines else "JAX does not start"
    if words[0] not in ("gpu", "cuda"):
        return f"JAX finds only a {words[0]}"
    limit = float(words[1]) / float(variables.get("XLA_CLIENT_MEM_FRACTION", 1))
    index = variables.get("CUDA_VISIBLE_DEVICES", "0")
    smi = nvidia_smi(index)
    if smi is None:
        return Device(words[2].strip(), limit, None)
    driver, free = smi
    return Device(words[2].strip(), min(limit, free) if limit else free, driver)


def nvidia_smi(index: str) -> tuple[str, float] | None:
    """(driver, free bytes) of a GPU; None if nvidia-smi does not tell."""
    command = ["nvidia-smi", "-i", index, "--query-gpu=driver_version,memory.free"]
    try:
        done = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20
        )
        driver, free = done.stdout.strip().split(",")
        return driver.strip(), float(free) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Package -> version, of those that are installed; and Python's."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
