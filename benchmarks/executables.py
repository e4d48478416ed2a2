"""The training steps of large models as TPU compilers make them, without a TPU: memory, bytes
between devices, cycles, and the speed that a roofline predicts from them.

Command: python -m benchmarks.executables [NAME ...] [--option NAME=VALUE ...] [--FIELD VALUE ...]
         e.g. llama_8b-v5e-256 --option xla_tpu_scoped_vmem_limit_kib=16384 --compute.remat dots
Without names all of `STEPS`. Needs libtpu (pip install 'llmjax[tpu]') and no device; a step takes 1
to 4 minutes of one core and 3 GB. Prints a row for each, then JSON. Nothing here is measured on a
device: tokens/s are predicted, for attention at 0.4 to 0.6 of the peak, and products of experts at
0.5 to 0.7.
"""

import argparse
import json
import math
import os
import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the attached devices; the topology has its own
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the metadata of a machine that has TPUs

import jax

from llmjax.model.checks import resolve
from llmjax.model.stages import schedule_of
from llmjax.parallel.chips import CHIPS, Chip
from llmjax.parallel.collectives import Collective, collectives
from llmjax.parallel.compilation import compiler_options
from llmjax.parallel.cycles import estimated_cycles, grouped_flops, splash_products, splash_runs
from llmjax.parallel.hlo import Program
from llmjax.parallel.mesh import LOGICAL_TO_MESH, axis_sizes, make_mesh
from llmjax.parallel.roofline import (
    attention_flops,
    attention_seconds,
    compiled_bandwidth,
    cycle_seconds,
)
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config
from llmjax.run.planning.child import topology_devices
from llmjax.run.planning.program import lowered_step
from llmjax.run.planning.topology import parse_topology

VOCABULARY = 128_256


@dataclass(frozen=True)
class Step:
    """A training step to compile."""

    config: str
    topology: str
    rows: int
    """Per device."""
    fields: tuple[tuple[str, str], ...] = ()
    vocabulary: int = VOCABULARY
    slices: int = 1


LLAMA_70B = (
    ("model.d-model", "8192"),
    ("model.num-decoder-layers", "80"),
    ("model.num-heads", "64"),
    ("model.d-ff", "28672"),
)
OFFLOADED = (
    ("compute.remat", "query,key,value,input"),
    ("compute.offload", "query key value input"),
)
STAGES = (("mesh.stage", "2"), ("mesh.across-slices", "stage"))
EXPERTS = (("mesh.expert", "8"),)
INT8 = (("compute.quantization", "int8"),)
FP8 = (("compute.quantization", "fp8"),)
STEPS = {
    "llama_8b-v5e-256": Step("llama_8b", "v5e:16x16", 2),
    "llama_8b-v5p-64": Step("llama_8b", "v5p:4x4x4", 4),
    "llama_8b-v5e-256-tensor-4": Step("llama_8b", "v5e:16x16", 2, (("mesh.tensor", "4"),)),
    "llama_8b-v5e-256-int8": Step("llama_8b", "v5e:16x16", 2, INT8),
    "llama_8b-v7x-64": Step("llama_8b", "v7x:4x4x4", 2),
    "llama_8b-v7x-64-fp8": Step("llama_8b", "v7x:4x4x4", 2, FP8),
    "llama_8b-2xv5p-32-stage-2": Step("llama_8b", "v5p:2x4x4", 8, STAGES, slices=2),
    "llama_70b-v5p-512": Step("llama_8b", "v5p:8x8x8", 2, LLAMA_70B),
    "mixtral_8x7b-v5p-256": Step("mixtral_8x7b", "v5p:4x8x8", 8, vocabulary=32_000),
    "mixtral_8x7b-v5p-256-expert-8": Step("mixtral_8x7b", "v5p:4x8x8", 8, EXPERTS, 32_000),
    "deepseek_v3_shape-v5p-1024": Step("deepseek_v3_shape", "v5p:8x8x16", 4, vocabulary=129_280),
    # As MaxText publishes them.
    "llama_8b-v6e-256": Step("llama_8b", "v6e:16x16", 3),
    "llama_70b-v6e-256": Step("llama_8b", "v6e:16x16", 5, LLAMA_70B + OFFLOADED),
    "llama_2_70b-v5p-512": Step(
        "llama_8b", "v5p:8x8x8", 2, (*LLAMA_70B, ("data.length", "4096")), vocabulary=32_000
    ),
}


EFFICIENCY = ((0.4, 0.5), (0.6, 0.7))
"""Of the kernels of attention and of grouped products, by their peak: the range of the
prediction."""


def predicted(
    program: Program, found: list[Collective], config: Config, mesh: jax.sharding.Mesh, chip: Chip
) -> list[float]:
    """Tokens per second of a device, for each efficiency of kernels.

    Time is that of the estimated cycles, of attention's products over half of the pairs of tokens,
    of the experts' products, and of the bytes of collectives that nothing runs beside.
    """
    sizes, model = axis_sizes(mesh), resolve(config.model, VOCABULARY)
    rows = config.data.batch_size / math.prod(sizes[axis] for axis in LOGICAL_TO_MESH["batch"])
    tokens, heads = rows * config.data.length / sizes["sequence"], model.num_heads / sizes["tensor"]
    schedule = schedule_of(config.compute, sizes["stage"], round(rows * sizes["stage"]))
    tokens *= schedule.stages / schedule.microbatches  # of a run of the kernels
    width = (model.head_width + model.value_width) / 2
    flops = attention_flops(splash_products(program), tokens, config.data.length / 2, heads, width)
    seconds = cycle_seconds(chip, estimated_cycles(program))
    for each in found:
        if not each.is_async:
            seconds += each.wire_bytes / compiled_bandwidth(chip, each.kind)
    tokens = config.data.batch_size * config.data.length / mesh.size
    filled = 1 / config.compute.expert_buffer if sizes["expert"] > 1 else 1.0
    grouped = grouped_flops(program) * filled / chip.flops
    return [
        tokens / (seconds + attention_seconds(chip, flops, attention) + grouped / experts)
        for attention, experts in EFFICIENCY
    ]


def compile_step(
    name: str, step: Step, fields: list[tuple[str, str]], options: list[str], hlo: Path | None
) -> dict:
    """Compiles a step; returns its figures.

    Args:
      name: of the step.
      step: what to compile.
      fields: further fields of the config.
      options: of the compiler, as `compute.xla_options`.
      hlo: a folder for the program's text.
    """
    devices = topology_devices(parse_topology(step.topology, step.slices))
    pairs = [*step.fields, ("data.batch-size", str(step.rows * len(devices))), *fields]
    config = override(
        load_config_file(step.config), [Override(key, tuple(value.split())) for key, value in pairs]
    )
    mesh = make_mesh(config.mesh, devices)
    start = time.perf_counter()
    lowered = lowered_step(config, mesh, step.vocabulary)
    given = compiler_options("tpu", (*config.compute.xla_options, *options))
    compiled = lowered.compile(compiler_options=given)
    seconds = time.perf_counter() - start
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    if hlo:
        (hlo / f"{name}.hlo").write_text(text)
    found, program = collectives(text, mesh), Program(text)
    wire = Counter[str]()
    for each in found:
        wire[each.kind] += each.wire_bytes / 1e9
    chip = CHIPS[step.topology.partition(":")[0]]
    return {
        "name": name,
        "mesh": {axis: size for axis, size in mesh.shape.items() if size > 1},
        "options": given,
        "peak_gib": (memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes) / 2**30,
        "wire_gb": wire,
        "exposed_gb": sum(each.wire_bytes / 1e9 for each in found if not each.is_async),
        "cycles": estimated_cycles(program),
        "kernels": splash_runs(program),
        "tokens_per_second": predicted(program, found, config, mesh, chip),
        "compile_seconds": seconds,
        "versions": {"jax": jax.__version__, "libtpu": version("libtpu")},
    }


def row(result: dict) -> str:
    """A line of the table."""
    wire, kernels = result["wire_gb"], Counter(result["kernels"])
    low, high = result["tokens_per_second"]
    return (
        f"{result['name']:28}{result['peak_gib']:7.2f}{wire['all-gather']:9.1f}"
        f"{wire['reduce-scatter']:9.1f}{wire['all-reduce']:9.1f}{result['exposed_gb']:9.1f}"
        f"{result['cycles']:11.3g}{kernels['fwd']:5}/{kernels['dkv'] + kernels['dq']:<5}"
        f"{low:8,.0f} to {high:,.0f}"
    )


def main() -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(STEPS))
    parser.add_argument("--option", action="append", default=[], help="of the compiler")
    parser.add_argument("--hlo", type=Path, help="a folder for the compiled programs' text")
    known, words = parser.parse_known_args()
    names = [name for name in known.names if name in STEPS]
    values = iter([name for name in known.names if name not in STEPS] + words)
    fields = [(name.removeprefix("--"), next(values)) for name in values]
    print(
        f"{'step':28}{'GiB':>7}{'gather':>9}{'scatter':>9}{'reduce':>9}{'exposed':>9}"
        f"{'cycles':>11}{'flash f/b':>11}{'predicted tokens/s':>20}",
        flush=True,
    )
    results = []
    for name in names or STEPS:
        results.append(compile_step(name, STEPS[name], fields, known.option, known.hlo))
        print(row(results[-1]), flush=True)
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
