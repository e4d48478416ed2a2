"""Memory of a training step on this machine's CPU: what `llmjax plan` says, and what a step takes.

Command: python -m benchmarks.plan_memory [NAME ...]
For each of five configs (families, optimizers, remat policies, shapes), all small: the peak that
`plan` predicts, analytic and compiled, and the peak of a process that takes two steps: its resident
memory beyond that before it creates the state, with the program loaded from JAX's cache. Prints a
row for each, then JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llmjax.run.config.files import load_config_file
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config

COMMON = {"model.vocab-size": "4096", "data.sources": "README.md"}
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "quickstart, Muon": ("quickstart", {"model.num-decoder-layers": "2"}),
    "Llama, AdamW, remat full": (
        "llama_1b",
        {
            "model.d-model": "256", "model.num-heads": "4", "model.num-kv-heads": "2",
            "model.d-ff": "768", "model.num-decoder-layers": "12", "data.length": "256",
            "data.batch-size": "16", "compute.remat": "full", "optimizer.accumulate": "1",
        },
    ),
    "Llama, Adafactor, float32": (
        "llama_1b",
        {
            "model.d-model": "512", "model.num-heads": "8", "model.num-kv-heads": "4",
            "model.d-ff": "1536", "model.num-decoder-layers": "2", "data.length": "128",
            "data.batch-size": "16", "compute.remat": "none", "compute.dtype": "float32",
            "optimizer": "adafactor", "optimizer.accumulate": "1",
        },
    ),
    "GPT-2, AdamW, remat dots, 2 microbatches": (
        "gpt2_124m",
        {
            "model.d-model": "256", "model.num-heads": "4", "model.num-decoder-layers": "2",
            "data.length": "256", "model.max-length": "256", "data.batch-size": "32",
            "compute.remat": "dots", "optimizer.accumulate": "2", "compute.dropout": "0",
        },
    ),
    "BERT, Lion": (
        "bert_base",
        {
            "model.d-model": "256", "model.num-heads": "4", "model.num-encoder-layers": "2",
            "data.length": "128", "model.max-length": "128", "data.batch-size": "64",
            "optimizer": "lion", "optimizer.accumulate": "1", "compute.dropout": "0",
        },
    ),
}  # fmt: skip


def config_of(name: str) -> Config:
    """The config of a case."""
    preset, fields = CASES[name]
    changes = [Override(key, (value,)) for key, value in (COMMON | fields).items()]
    return override(load_config_file(preset), changes)


def resident(key: str) -> int:
    """Bytes of this process's memory, by a key of /proc/self/status."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if key in x)
    return int(line.split()[1]) * 1024


def take_steps(name: str) -> None:
    """Prints the bytes that two steps take beyond what the process had before."""
    import jax
    import jax.numpy as jnp

    from llmjax.parallel.mesh import make_mesh
    from llmjax.run.planning.program import lowered_step, model_and_optimizer
    from llmjax.state import make_state

    config = config_of(name)
    mesh = make_mesh(config.mesh)
    step = lowered_step(config, mesh, config.model.vocab_size).compile()
    model, optimizer = model_and_optimizer(config, config.model.vocab_size)
    make_state(model, optimizer, 0, mesh)  # compiles, and is freed again
    batch_shapes = step.in_avals[0][1]
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    state = make_state(model, optimizer, 0, mesh)
    shardings = step.input_shardings[0][1]
    batch = {
        key: jax.device_put(jnp.ones(leaf.shape, leaf.dtype), shardings[key])
        for key, leaf in batch_shapes.items()
    }
    for _ in range(2):
        state, metrics = step(state, batch, None)
    jax.block_until_ready((state, metrics))
    print(resident("VmHWM") - before)


def main(names: list[str]) -> dict:
    rows = []
    print(f"{'config':42}{'measured':>10}{'compiled':>10}{'':>8}{'analytic':>10}  MiB")
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ) | {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "MALLOC_TRIM_THRESHOLD_": "0",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }
        for name in names or CASES:
            config = config_of(name)
            planned = plan(name, environment)
            command = [sys.executable, "-m", "benchmarks.plan_memory", "--steps", name]
            subprocess.run(
                command, env=environment, check=True, capture_output=True
            )  # fills caches
            run = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            )
            row = planned | {"config": name, "measured": int(run.stdout.split()[-1])}
            row["error"] = row["compiled"] / row["measured"] - 1
            rows.append(row)
            print(
                f"{name:42}{row['measured'] / 2**20:>10,.0f}{row['compiled'] / 2**20:>10,.0f}"
                f"{row['error']:>+8.1%}{row['analytic'] / 2**20:>10,.0f}  {config.compute.remat}",
                flush=True,
            )
    result = {"configs": rows}
    print(json.dumps(result))
    return result


def plan(name: str, environment: dict[str, str]) -> dict[str, float]:
    """What `llmjax plan --compile` says of a case."""
    preset, fields = CASES[name]
    words = [word for key, value in (COMMON | fields).items() for word in (f"--{key}", value)]
    command = [sys.executable, "-m", "llmjax", "plan", preset, "--topology", "cpu"]
    run = subprocess.run(
        [*command, "--compile", "--json", *words],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    memory = json.loads(run.stdout)["memory"]
    return {"compiled": memory["compiled"]["peak"], "analytic": memory["analytic"]["peak"]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--steps", metavar="NAME", help="take two steps, and print their memory")
    options = parser.parse_args()
    take_steps(options.steps) if options.steps else main(options.names)
