"""Kills training runs at random times, resumes them, and compares the results.

Command: python -m benchmarks.kill_resume [--kills 20] [--seed 0]
Each run starts with empty caches, so that SIGKILL hits tokenization, compilation, training,
evaluation and saving. The final parameters and the log must equal those of an uninterrupted run.
Prints a line per kill, then JSON.
"""

import argparse
import hashlib
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import llmjax

# A few seconds of training with frequent saves, evaluations and samples.
OPTIONS = (
    "--steps 200 --model.d-model 64 --compute.dropout 0.1 --checkpoint.every 10 "
    "--evaluation.every 50 --samples.every 100 --log.every 5 --log.display none"
).split()


def command(folder: Path, options: list[str]) -> list[str]:
    """Returns a command that trains the smoke preset, for longer, in `folder`/run."""
    paths = ["--run-dir", str(folder / "run"), "--data.cache-dir", str(folder / "cache")]
    return [sys.executable, "-m", "llmjax", "train", "smoke", *paths, *OPTIONS, *options]


def outcome(folder: Path) -> tuple[str, list]:
    """Returns a digest of the final parameters, and (step, kind, loss) of each logged line."""
    params = llmjax.load(folder / "run").params
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return digest.hexdigest(), [(r["step"], r["kind"], r["loss"]) for r in map(json.loads, lines)]


def progress(folder: Path) -> str:
    """Describes the progress of a killed run, from its folder."""
    checkpoints = folder / "run" / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    steps = [int(name) for name in names if name.isdecimal()]
    saving = ", one being written" if len(steps) < len(names) else ""
    return f"checkpoint {max(steps)}{saving}" if steps else f"no checkpoint{saving}"


def kill_until_done(folder: Path, options: list[str], rng: random.Random, limit: float) -> int:
    """Kills a run repeatedly after up to `limit` seconds until it ends; returns the kills."""
    for kills in itertools.count():
        process = subprocess.Popen(command(folder, options), stdout=subprocess.DEVNULL)
        after = rng.uniform(0, limit)
        try:
            if process.wait(timeout=after) != 0:
                raise SystemExit(f"the training failed with code {process.returncode}")
            return kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"  killed after {after:5.1f} s: {progress(folder)}", flush=True)
    raise AssertionError("unreachable")


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="minimum total")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    parser.add_argument(
        "--limit",
        type=float,
        help="maximum seconds to a kill; default: those of an uninterrupted run",
    )
    parser.add_argument("options", nargs="*", help="options of llmjax train, after --")
    args = parser.parse_args(arguments)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        reference = Path(temporary) / "reference"
        began = time.perf_counter()
        subprocess.run(command(reference, args.options), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        limit = args.limit or seconds
        expected = outcome(reference)
        kills = runs = 0
        differing = []
        while kills < args.kills:
            folder = Path(temporary) / f"killed{runs}"
            print(f"run {runs}", flush=True)
            kills += kill_until_done(folder, args.options, rng, limit)
            if outcome(folder) != expected:
                differing.append(runs)
            runs += 1
    result = {"kills": kills, "runs": runs, "differing_runs": differing}
    result["uninterrupted_seconds"] = seconds
    verdict = "all equal, bit for bit" if not differing else f"runs {differing} differ"
    print(f"{kills} kills over {runs} runs: {verdict}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["differing_runs"] else 0)
