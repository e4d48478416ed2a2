"""Kills a training at random moments, starts it again each time, and compares what comes out.

Command: python -m benchmarks.kill_resume [--kills 20] [--seed 0]
Every killed run begins with empty caches, so that tokenizing, compiling, training, evaluating and
saving all get their share of SIGKILLs; when one is done, its parameters and its log must be those
of a run that was left alone. Prints a line for each kill, and JSON last.
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

# A few seconds of steps, a save every few of them, evaluations and samples between.
OPTIONS = (
    "--steps 200 --model.d-model 64 --compute.dropout 0.1 --checkpoint.every 10 "
    "--evaluation.every 50 --samples.every 100 --log.every 5 --log.display none"
).split()


def command(folder: Path, options: list[str]) -> list[str]:
    """Trains the smoke preset, made longer, in `folder`/run with caches of its own."""
    places = ["--run-dir", str(folder / "run"), "--data.cache-dir", str(folder / "cache")]
    return [sys.executable, "-m", "llmjax", "train", "smoke", *places, *OPTIONS, *options]


def outcome(folder: Path) -> tuple[str, list]:
    """A digest of the final parameters, and (step, kind, loss) of every logged line."""
    params = llmjax.load(folder / "run").params
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return digest.hexdigest(), [(r["step"], r["kind"], r["loss"]) for r in map(json.loads, lines)]


def standing(folder: Path) -> str:
    """How far a killed run had come, read from its folder."""
    checkpoints = folder / "run" / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    steps = [int(name) for name in names if name.isdecimal()]
    saving = ", one being written" if len(steps) < len(names) else ""
    return f"checkpoint {max(steps)}{saving}" if steps else f"no checkpoint{saving}"


def kill_until_done(folder: Path, options: list[str], draw: random.Random, limit: float) -> int:
    """Runs to the end through kills after up to `limit` seconds each; how many there were."""
    for kills in itertools.count():
        process = subprocess.Popen(command(folder, options), stdout=subprocess.DEVNULL)
        after = draw.uniform(0, limit)
        try:
            if process.wait(timeout=after) != 0:
                raise SystemExit(f"the training failed with code {process.returncode}")
            return kills
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            print(f"  killed after {after:5.1f} s: {standing(folder)}", flush=True)
    raise AssertionError("unreachable")


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="at least so many in all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--limit", type=float, help="seconds to the latest kill; else those alone")
    parser.add_argument("options", nargs="*", help="more options of llmjax train, after --")
    given = parser.parse_args(arguments)
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place) / "alone"
        began = time.perf_counter()
        subprocess.run(command(alone, given.options), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        limit = given.limit or seconds
        expected = outcome(alone)
        kills = runs = 0
        differing = []
        while kills < given.kills:
            folder = Path(place) / f"killed{runs}"
            print(f"run {runs}", flush=True)
            kills += kill_until_done(folder, given.options, draw, limit)
            if outcome(folder) != expected:
                differing.append(runs)
            runs += 1
    result = {"kills": kills, "runs": runs, "differing_runs": differing, "seconds_alone": seconds}
    verdict = "all the same, bit for bit" if not differing else f"runs {differing} differ"
    print(f"{kills} kills over {runs} runs: {verdict}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["differing_runs"] else 0)
