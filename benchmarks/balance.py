"""How even a router's load is after training with each way to balance it.

Command: python -m benchmarks.balance [--steps 1000] [--folder FOLDER]
A small sparse model on the embedded text, once for each method. Takes about a minute of two cores
for each. Prints means of the last tenth of the steps: the load of the fullest, the median and the
emptiest expert relative to an equal share, and the router's entropy; the validation set's bits per
byte; then JSON.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmjax import (
    AdamWConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    MoEConfig,
    SamplesConfig,
    ScheduleConfig,
    SentencePieceConfig,
    train,
)

PLAIN = MoEConfig(num_experts=16, experts_per_token=2, expert_width=128, scores="sigmoid")
BALANCE, Z, RATE = 0.01, 0.001, 0.001
METHODS = {
    "none": PLAIN,
    "balance loss": replace(PLAIN, balance_loss=BALANCE),
    "selection bias": replace(PLAIN, selection_bias=True, bias_update_rate=RATE),
    "balance loss and selection bias": replace(
        PLAIN, balance_loss=BALANCE, selection_bias=True, bias_update_rate=RATE
    ),
    "balance loss and z-loss": replace(PLAIN, balance_loss=BALANCE, z_loss=Z),
}
FIGURES = ("expert_load_max", "expert_load_median", "expert_load_min", "router_entropy")


def config(moe: MoEConfig, steps: int, folder: Path) -> Config:
    """The run of one method."""
    return Config(
        run_dir=str(folder),
        steps=steps,
        model=ModelConfig(
            max_length=128, d_model=128, num_decoder_layers=3, num_heads=2, d_ff=256, moe=moe
        ),
        tokenizer=SentencePieceConfig(vocab_size=1024),
        data=DataConfig(batch_size=16, length=128),
        optimizer=AdamWConfig(
            learning_rate=3e-3, schedule=ScheduleConfig(warmup_steps=steps // 20)
        ),
        evaluation=EvaluationConfig(every=steps),
        samples=SamplesConfig(every=0),
        log=LogConfig(every=1, display="none"),
    )


def result(run: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    last = steps[-max(1, len(steps) // 10) :]
    figures = {name: statistics.fmean(record[name] for record in last) for name in FIGURES}
    evaluated = [record for record in records if record["kind"] == "eval"]
    return figures | {"bits_per_byte": evaluated[-1]["bits_per_byte"]}


def main() -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keeps the runs")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name, moe in METHODS.items():
            run = folder / name.replace(" ", "_")
            train(config(moe, options.steps, run))
            results[name] = result(run)
            shown = "  ".join(f"{key} {value:.3f}" for key, value in results[name].items())
            print(f"{name:34}{shown}", flush=True)
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
