"""Small runs of mixtures of experts: upcycling against its alternatives, and ways to balance.

    nice python -m benchmarks.moe_runs upcycling      # bits per byte at equal tokens
    nice python -m benchmarks.moe_runs balance        # loads after 1,000 steps of each method

All train a quarter of the quickstart's width on its text, one after another, in a folder that
`--folder` names. Loads are means of the last 50 steps: the fullest expert's load, relative to the
mean, in a batch (1 more than MaxVio of arXiv:2408.15664, equation 4), averaged over layers.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from llmjax import Config, MoEConfig, load_config_file, train
from llmjax.run.folder import Run

SPLIT = MoEConfig(num_experts=8, experts_per_token=2, expert_width=96, balance_loss=0.01)
COPIED = replace(SPLIT, expert_width=192)
BALANCED = replace(SPLIT, balance_loss=0.0)
METHODS = {
    "none": BALANCED,
    "z-loss 0.001": replace(BALANCED, z_loss=1e-3),
    "auxiliary loss 0.01": replace(BALANCED, balance_loss=0.01),
    "bias update 0.001": replace(BALANCED, scores="sigmoid", selection_bias=True),
    "both": replace(BALANCED, scores="sigmoid", selection_bias=True, balance_loss=1e-4),
}


def small(folder: Path, name: str, steps: int, moe: MoEConfig | None) -> Config:
    """The quickstart, narrower, without samples."""
    config = load_config_file("quickstart")
    model = replace(config.model, d_model=64, d_ff=192, num_decoder_layers=2, max_length=128)
    return replace(
        config,
        run_dir=str(folder / name.replace(" ", "_")),
        steps=steps,
        model=replace(model, num_heads=2, moe=moe),
        tokenizer=replace(config.tokenizer, vocab_size=2048),
        data=replace(config.data, length=128, batch_size=16),
        evaluation=replace(config.evaluation, every=steps),
        samples=replace(config.samples, every=0),
    )


def result(config: Config) -> dict[str, float]:
    """Trains; the last validation, the mean of the last 50 steps' router metrics, and seconds."""
    start = time.perf_counter()
    run = train(config)
    lines = [json.loads(line) for line in Run(Path(run.folder)).metrics.read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    late = [line for line in steps if line["step"] > config.steps - 50]
    names = ("expert_load_max", "expert_load_min", "router_entropy")
    routers = {name: _mean([line[name] for line in late]) for name in names if name in late[-1]}
    validation = [line for line in lines if line["kind"] == "eval"][-1]["bits_per_byte"]
    first = {"first_loss": steps[0]["loss"]}
    return {"bits_per_byte": validation, **routers, **first, "s": time.perf_counter() - start}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def upcycling(folder: Path) -> None:
    """600 steps of a dense model, then 300 of each of its continuations."""
    dense = small(folder, "dense", 600, None)
    show("dense, 600 steps", result(dense))
    more = {"dense": None, "8 halves, 2 used": SPLIT, "8 copies, 2 used": COPIED}
    for name, moe in more.items():
        config = small(folder, f"from dense, {name}", 300, moe)
        show(f"dense, then {name}", result(replace(config, init_from=dense.run_dir)))
    for name, moe in (("8 halves, 2 used", SPLIT), ("8 copies, 2 used", COPIED)):
        show(f"900 steps: {name}", result(small(folder, f"scratch, {name}", 900, moe)))
    show("900 steps: dense", result(small(folder, "scratch, dense", 900, None)))


def balance(folder: Path) -> None:
    """1,000 steps with each method."""
    for name, moe in METHODS.items():
        show(name, result(small(folder, f"balance, {name}", 1000, moe)))


def show(name: str, found: dict[str, float]) -> None:
    """Prints a line of JSON."""
    rounded = {key: round(value, 3) for key, value in found.items()}
    print(json.dumps({"run": name, **rounded}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("upcycling", "balance"))
    parser.add_argument("--folder", type=Path, default=Path("runs/moe"))
    options = parser.parse_args()
    {"upcycling": upcycling, "balance": balance}[options.what](options.folder)
