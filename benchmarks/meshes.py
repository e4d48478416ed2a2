"""Compares losses, parameters and batches across meshes, processes and resumes.

Command: python -m benchmarks.meshes
Trains the smoke preset with dropout for 20 steps, in float32 on virtual CPU devices, each run in a
separate process, and compares:

1. losses on five meshes and in two processes with those on one device;
2. parameters after resuming at step 10 on the same devices, bit for bit;
3. digests of every batch after resuming at step 10 on 4 and then 2 devices, and in two processes.

Prints a line for each, then JSON.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import llmjax
import llmjax.training.train
from llmjax.data.loader import Loader, batch_at
from llmjax.data.text.corpus import prepare
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.config.files import load_config_file
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import from_json, to_json
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig

STEPS = 20
MESHES = {
    "data=8": MeshConfig(data=8, fsdp=1),
    "fsdp=8": MeshConfig(fsdp=8),
    "tensor=2 x fsdp=4": MeshConfig(tensor=2, fsdp=4),
    "sequence=2 x fsdp=4": MeshConfig(sequence=2, fsdp=4),
    "data=2 x fsdp=2 x tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
}


class Recording(Loader):
    """Records the digest of every global batch."""

    digests: dict[str, str] = {}  # noqa: RUF012

    def __next__(self):
        step, batch = super().__next__()
        arrays = {k: multihost_utils.process_allgather(x, tiled=True) for k, x in batch.items()}
        self.digests[str(step)] = digest(arrays)
        return step, batch


def digest(batch: dict) -> str:
    """Hashes the contents of a global batch, independent of its layout."""
    parts = [name.encode() + np.asarray(batch[name]).tobytes() for name in sorted(batch)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def train_here(folder: Path) -> None:
    """Trains `folder`/config.json in this process, and adds digests to `folder`/batches.json."""
    llmjax.training.train.Loader = Recording  # type: ignore[attr-defined]
    llmjax.train(from_json((folder / "config.json").read_text()))
    if jax.process_index() == 0:
        path = folder / "batches.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | Recording.digests))


def train(folder: Path, config: Config, devices: int, processes: int = 1) -> Path:
    """Trains in `folder`/run on this many devices and processes; returns `folder`."""
    folder.mkdir(exist_ok=True)
    config = replace(config, run_dir=str(folder / "run"), cpu_devices=devices // processes)
    (folder / "config.json").write_text(to_json(config))
    environment = dict(os.environ)
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{probe.getsockname()[1]}"
        environment["JAX_NUM_PROCESSES"] = str(processes)
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.meshes", str(folder)],
            env=environment | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.DEVNULL,
        )
        for index in range(processes)
    ]
    codes = [worker.wait() for worker in workers]
    if any(codes):
        raise SystemExit(f"the training in {folder} failed")
    return folder


def losses(folder: Path) -> np.ndarray:
    """Returns the loss of every step."""
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return np.array([line["loss"] for line in lines if line["kind"] == "train"])


def same_params(a: Path, b: Path) -> bool:
    """Whether the final parameters of two runs are equal bit for bit."""
    pairs = zip(
        *(jax.tree.leaves(llmjax.load(folder / "run").params) for folder in (a, b)), strict=True
    )
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def truncated(folder: Path, target: Path, until: int) -> Path:
    """Copies a run without its checkpoints after step `until`."""
    shutil.copytree(folder, target)
    for checkpoint in (target / "run" / "checkpoints").iterdir():
        if int(checkpoint.name) > until:
            shutil.rmtree(checkpoint)
    (target / "batches.json").unlink()
    return target


def main() -> dict:
    smoke = load_config_file("smoke")
    result: dict = {"max_loss_difference": {}}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        config = replace(
            smoke,
            steps=STEPS,
            compute=replace(smoke.compute, dropout=0.1),
            data=replace(smoke.data, cache_dir=str(root / "cache")),
            checkpoint=CheckpointConfig(every=5, keep_last=100),
            evaluation=EvaluationConfig(every=0, max_tokens=512),
            samples=replace(smoke.samples, every=0),
            log=LogConfig(every=1, display="none"),
        )
        reference = losses(train(root / "one device", config, 1))
        for name, mesh in MESHES.items():
            meshed_losses = losses(train(root / name, replace(config, mesh=mesh), 8))
            show(result, name, float(np.abs(meshed_losses - reference).max()))
        meshed = replace(config, mesh=MESHES["tensor=2 x fsdp=4"])
        two = train(root / "two", meshed, 8, processes=2)
        show(result, "two processes of 4", float(np.abs(losses(two) - reference).max()))
        eight = root / "tensor=2 x fsdp=4"
        difference = float(np.abs(losses(two) - losses(eight)).max())
        show(result, "two processes of 4, against one of 8", difference)

        resumed = train(truncated(eight, root / "resumed", 10), meshed, 8)
        result["resume_bitwise"] = same_params(resumed, eight)
        print(f"resumed at 10 on the same 8 devices: same={result['resume_bitwise']}")

        fewer = train(truncated(eight, root / "four", 10), config, 4)
        train(truncated(fewer, root / "two devices", 15), config, 2)
        train(truncated(eight, root / "split", 10), config, 8, processes=2)
        _, corpus = prepare(config.data, config.tokenizer)
        for name, folder, first in (
            ("4 devices", root / "four", 10),
            ("then 2", root / "two devices", 15),
            ("2 processes", root / "split", 10),
        ):
            digests = json.loads((folder / "batches.json").read_text())
            steps = range(first, STEPS)
            batches = (batch_at(corpus, config.data, config.seed, step) for step in steps)
            same = digests == dict(zip(map(str, steps), map(digest, batches), strict=True))
            result[f"same batches, {name}"] = same
            print(f"resumed at {first} on {name}: {len(digests)} batches, same={same}")
    print(json.dumps(result))
    return result


def show(result: dict, name: str, difference: float) -> None:
    result["max_loss_difference"][name] = difference
    print(f"{name:40}largest difference of a loss {difference:.2e}", flush=True)


if __name__ == "__main__":
    train_here(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
