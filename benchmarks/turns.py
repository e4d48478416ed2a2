"""Two sides that do the same, each run in a process of its own, in turns, seed by seed."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence

SIDES = ("llmjax", "Transformers")
SPEED = "samples_per_second"


def take_turns(module: str, words: Sequence[str], seeds: int) -> None:
    """Runs `python -m MODULE WORDS --side SIDE --seed SEED`, and prints what they come to.

    Args:
      module: whose last line of output is a JSON object of figures, SPEED among them.
      words: what both sides are told.
      seeds: runs of each.
    """
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side, results in found.items():
            command = [sys.executable, "-m", module, *words, "--side", side, "--seed", str(seed)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(seed, side, results[-1], flush=True)
    for side, results in found.items():
        told = [_spread(name, [one[name] for one in results]) for name in results[0]]
        print(f"{side:14}" + "   ".join(told))
    ratios = [ours[SPEED] / theirs[SPEED] for ours, theirs in zip(*found.values(), strict=True)]
    print(f"samples/s, llmjax over Transformers, seed by seed: {[round(r, 2) for r in ratios]}")


def _spread(name: str, values: list[float]) -> str:
    if name in (SPEED, "seconds"):
        return f"{name} {statistics.median(values):.1f} (median)"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{name} {statistics.mean(values):.4f} +- {deviation:.4f}"
