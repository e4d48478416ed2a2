"""A dense run upcycled to a sparse one, against its alternatives at equal tokens.

Command: python -m benchmarks.upcycling [--steps 200] [--folder runs/upcycling]
A narrow quickstart on its text: a dense run, then half as many steps of each of its continuations,
and sparse runs from random parameters with as many steps in all. Prints a line of JSON for each:
validation bits per byte, and the first step's loss.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from llmjax import Config, MoEConfig, load_config_file, train

HALVES = MoEConfig(num_experts=8, experts_per_token=2, expert_width=96, balance_loss=0.01)
COPIES = replace(HALVES, expert_width=192)


def small(folder: Path, name: str, steps: int, moe: MoEConfig | None, start: str | None) -> Config:
    """The quickstart, narrower, without samples."""
    config = load_config_file("quickstart")
    model = replace(config.model, d_model=64, d_ff=192, num_decoder_layers=2, max_length=128)
    return replace(
        config,
        run_dir=str(folder / name),
        steps=steps,
        init_from=start,
        model=replace(model, num_heads=2, moe=moe),
        tokenizer=replace(config.tokenizer, vocab_size=2048),
        data=replace(config.data, length=128, batch_size=8),
        evaluation=replace(config.evaluation, every=steps),
        samples=replace(config.samples, every=0),
        log=replace(config.log, every=1),
    )


def measure(folder: Path, name: str, steps: int, moe: MoEConfig | None, start: str | None) -> str:
    """Trains, prints the results, and returns the run's folder."""
    run = train(small(folder, name, steps, moe, start))
    bits = run.metrics("eval")["bits_per_byte"][-1]
    first = run.metrics("train")["loss"][0]
    line = {"run": name, "steps": steps, "bits_per_byte": bits, "first_loss": first}
    print(json.dumps(line), flush=True)
    return str(run.folder)


def main() -> None:
    """All runs, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/upcycling"))
    options = parser.parse_args()
    folder, steps = options.folder, options.steps
    dense = measure(folder, "dense", steps, None, None)
    ways = {"halves": HALVES, "dense": None, "copies": COPIES}
    for name, moe in ways.items():
        measure(folder, f"dense-then-{name}", steps // 2, moe, dense)
    for name, moe in ways.items():
        measure(folder, f"random-{name}", steps + steps // 2, moe, None)


if __name__ == "__main__":
    main()
