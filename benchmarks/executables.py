"""The training steps of large models as TPU compilers make them, without a TPU: memory, bytes
between devices, cycles, and the speed that a roofline predicts from them.

Command: python -m benchmarks.executables [NAME ...] [--option NAME=VALUE ...] [--FIELD VALUE ...]
         e.g. llama_8b-v5e-256 --option xla_tpu_scoped_vmem_limit_kib=16384 --compute.remat dots
Without names all of `STEPS`. Needs libtpu (pip install 'llmjax[tpu]') and no device; a step takes 1
to 4 minutes of one core and 3 GB. Prints a row for each, then JSON. Nothing here is measured on a
device: tokens/s are predicted, for attention at 0.4 to 0.6 of the peak.
"""

import argparse
import json
import os
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the attached devices; the topology has its own
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # the metadata of a machine that has TPUs

import jax
from jax.experimental import topologies

from benchmarks.collectives import lowered_step
from llmjax.model.checks import resolve
from llmjax.parallel.collectives import Collective, collectives
from llmjax.parallel.compilation import compiler_options
from llmjax.parallel.hlo import Program
from llmjax.parallel.mesh import axis_sizes, make_mesh
from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config

VOCABULARY = 128_256


@dataclass(frozen=True)
class Step:
    """A training step to compile."""

    config: str
    topology: str
    rows: int
    """Per device."""
    fields: tuple[tuple[str, str], ...] = ()


LLAMA_70B = (
    ("model.d-model", "8192"),
    ("model.num-decoder-layers", "80"),
    ("model.num-heads", "64"),
    ("model.d-ff", "28672"),
)
STEPS = {
    "llama_8b-v5e-256": Step("llama_8b", "v5e:16x16", 2),
    "llama_8b-v5p-64": Step("llama_8b", "v5p:4x4x4", 4),
    "llama_8b-v5e-256-tensor-4": Step("llama_8b", "v5e:16x16", 2, (("mesh.tensor", "4"),)),
    "llama_70b-v5p-512": Step("llama_8b", "v5p:8x8x8", 2, LLAMA_70B),
}


@dataclass(frozen=True)
class Chip:
    """Public figures of a TPU."""

    flops: float
    """bfloat16 FLOPs per second."""
    link: float
    """Bytes per second along one axis of the torus, both ways together."""
    axes: int
    """Of the torus."""
    clock: float
    """Cycles per second, by which the compiler's estimates become seconds."""


CHIPS = {
    "v5e": Chip(1.97e14, 9e10, 2, 1.503e9),
    "v5p": Chip(4.59e14, 1.8e11, 3, 1.751e9),
    "v6e": Chip(9.2e14, 1.8e11, 2, 1.751e9),
}
EFFICIENCY = (0.4, 0.6)
"""Of attention kernels, by their peak: the range of the prediction."""

_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_KERNEL = re.compile(r"(splash_mh?qa?_[a-z]+|splash_mha_[a-z]+)")


@dataclass(frozen=True)
class Work:
    """What a device does in a step, by the compiler's own estimates."""

    cycles: float
    matmul_cycles: float
    flash_forward: int
    flash_backward: int
    products: int
    """Of queries and keys or of the like size, in attention: 2 forward, 5 backward (7 unfused)."""


def work(program: Program) -> Work:
    """Adds up cycles outside attention kernels, and the kernels' calls."""
    cycles = matmul = 0
    calls: Counter[str] = Counter()
    multiplies = {
        name: any(each.opcode in ("convolution", "dot") for each in instructions)
        for name, instructions in program.computations.items()
    }
    for each in program.executed():
        instruction = each.instruction
        if instruction.opcode == "custom-call" and "tpu_custom_call" in instruction.text:
            calls[instruction.name.split(".")[0]] += each.times
        found = _CYCLES.search(instruction.text)
        if found is None or each.computation != each.scheduled:
            continue
        cycles += int(found[1]) * each.times
        called = re.search(r"calls=%?([\w.\-]+)", instruction.text)
        if called and _multiplies(program, called[1], multiplies):
            matmul += int(found[1]) * each.times
    forward = sum(count for name, count in calls.items() if "fwd" in name)
    dq = sum(count for name, count in calls.items() if "_dq" in name)
    dkv = sum(count for name, count in calls.items() if "dkv" in name)
    return Work(cycles, matmul, forward, dkv + dq, 2 * forward + 3 * dq + (4 if dq else 5) * dkv)


def _multiplies(program: Program, name: str, direct: dict[str, bool]) -> bool:
    """Whether a computation has a matrix product, in its fusions too."""
    inner = (
        called[1]
        for each in program.computations.get(name, ())
        if each.opcode == "fusion" and (called := re.search(r"calls=%?([\w.\-]+)", each.text))
    )
    return direct.get(name, False) or any(_multiplies(program, each, direct) for each in inner)


def predicted(
    done: Work, found: list[Collective], config: Config, mesh: jax.sharding.Mesh, chip: Chip
) -> list[float]:
    """Tokens per second of a device, for each efficiency of attention.

    Time is that of the estimated cycles, of attention's products over half of the pairs of tokens,
    and of the bytes of collectives that nothing runs beside. A ring of one mesh axis uses one axis
    of the torus; an all-reduce, and any collective of a three-dimensional torus, uses all.
    """
    sizes, model = axis_sizes(mesh), resolve(config.model, VOCABULARY)
    rows = config.data.batch_size / (sizes["data"] * sizes["fsdp"])
    length, heads = config.data.length / sizes["sequence"], model.num_heads / sizes["tensor"]
    flops = done.products * rows * length * config.data.length * heads * model.head_width
    seconds = done.cycles / chip.clock
    for each in found:
        if not each.is_async:
            axes = chip.axes if each.kind == "all-reduce" or chip.axes == 3 else 1
            seconds += each.wire_bytes / (chip.link * axes)
    tokens = config.data.batch_size * config.data.length / mesh.size
    return [tokens / (seconds + flops / (share * chip.flops)) for share in EFFICIENCY]


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
    devices = topologies.get_topology_desc(step.topology, "tpu").devices
    pairs = [*step.fields, ("data.batch-size", str(step.rows * len(devices))), *fields]
    config = override(
        load_config_file(step.config), [Override(key, (value,)) for key, value in pairs]
    )
    mesh = make_mesh(config.mesh, devices)
    start = time.perf_counter()
    lowered = lowered_step(config, mesh, VOCABULARY)
    given = compiler_options("tpu", (*config.compute.xla_options, *options))
    compiled = lowered.compile(compiler_options=given)
    seconds = time.perf_counter() - start
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    if hlo:
        (hlo / f"{name}.hlo").write_text(text)
    found, done = collectives(text, mesh), work(Program(text))
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
        "work": asdict(done),
        "tokens_per_second": predicted(done, found, config, mesh, chip),
        "compile_seconds": seconds,
        "versions": {"jax": jax.__version__, "libtpu": _libtpu()},
    }


def _libtpu() -> str:
    from importlib.metadata import version

    return version("libtpu")


def row(result: dict) -> str:
    """A line of the table."""
    wire, done = result["wire_gb"], result["work"]
    low, high = result["tokens_per_second"]
    return (
        f"{result['name']:28}{result['peak_gib']:7.2f}{wire['all-gather']:9.1f}"
        f"{wire['reduce-scatter']:9.1f}{wire['all-reduce']:9.1f}{result['exposed_gb']:9.1f}"
        f"{done['cycles']:11.3g}{done['flash_forward']:5}/{done['flash_backward']:<5}"
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
