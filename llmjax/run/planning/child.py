"""Compiles a training step, as a process of its own (see `planning.compiled`).

Usage: python -m llmjax.run.planning.child REQUEST.json RESULT.json
"""

import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from llmjax.errors import UserError
from llmjax.parallel.collectives import collectives, summed
from llmjax.parallel.compilation import compiler_options
from llmjax.parallel.cycles import estimated_cycles, grouped_flops, splash_products
from llmjax.parallel.hlo import Program
from llmjax.parallel.mesh import make_mesh
from llmjax.run.config.storage import from_json
from llmjax.run.planning.gpu_targets import target_config
from llmjax.run.planning.program import lowered_step
from llmjax.run.planning.topology import Topology, compiler_topology, parse_topology
from llmjax.storage.json_documents import parse_json


def main(request: Path, result: Path) -> None:
    """Compiles what the request describes, and writes what the compiler says of it."""
    asked = parse_json(request.read_text(encoding="utf-8"), "the request")
    assert isinstance(asked, dict)
    config = from_json(asked["config"])
    topology = parse_topology(asked["name"], asked["slices"])
    if topology.platform == "cpu":
        jax.config.update("jax_num_cpu_devices", asked["devices"])
    mesh = make_mesh(config.mesh, topology_devices(topology))
    lowered = lowered_step(config, mesh, asked["vocabulary"])
    start = time.perf_counter()
    options: dict[str, Any] = dict(
        compiler_options(
            topology.platform, config.compute.xla_options, mesh.devices.flat[0].device_kind
        )
    )
    compiled = lowered.compile(compiler_options=options or None)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None
    assert text is not None
    program = Program(text)
    kinds = {
        "arguments": memory.argument_size_in_bytes,
        "results that replace none": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    # The compilers of accelerators know the peak. That of CPUs reports the arguments only, and of
    # its temporaries, which are one block of memory, the size.
    peak = sum(kinds.values())
    if topology.platform != "cpu":
        peak = memory.peak_memory_in_bytes + kinds["code"]
    found = {
        "peak": peak,
        "memory": kinds,
        "collectives": summed(collectives(text, mesh)),
        "cycles": estimated_cycles(program),
        "attention_products": splash_products(program),
        "grouped_flops": grouped_flops(program),
        "seconds": seconds,
        "versions": versions(topology),
    }
    result.write_text(json.dumps(found), encoding="utf-8")


def topology_devices(topology: Topology) -> Sequence[Any]:
    """JAX's devices of a topology, which exist for the compiler alone."""
    if topology.platform == "cpu":
        return jax.devices()
    assert topology.chip is not None
    if topology.platform == "gpu":
        hosts, gpus = topology.shape
        target = target_config(topology.chip.name)
        sizes = f"{hosts}x1x{gpus}"
        return topologies.get_topology_desc(
            "gpu", "cuda", topology=sizes, target_config=target
        ).devices
    several: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chip.name == "v4":
        several["chip_config_name"] = "megacore"
    return topologies.get_topology_desc(compiler_topology(topology.name), "tpu", **several).devices


def versions(topology: Topology) -> str:
    """Versions of JAX and of the compiler's package."""
    package = {"tpu": "libtpu", "gpu": "jax-cuda13-plugin", "cpu": "jaxlib"}[topology.platform]
    try:
        return f"jax {jax.__version__}, {package} {version(package)}"
    except PackageNotFoundError:
        return f"jax {jax.__version__}"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        sys.exit(str(error))
