"""A fine-tuning recipe for llmjax and for Transformers' Trainer, run alternately by seed."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmjax.data.config import DataConfig
from llmjax.data.tables.table import read_tables
from llmjax.model.compute import ComputeConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.config import TaskConfig

SIDES = ("llmjax", "Transformers")
SPEED = "samples_per_second"
STEADY = "steady_samples_per_second"
"""Without compilation: from the end of the first fifth of the steps."""
DECAY, WARMUP, DROPOUT = 0.01, 50, 0.1


def add_arguments(parser: argparse.ArgumentParser, rows: int, length: int) -> None:
    """Adds the options of both benchmarks."""
    parser.add_argument("run", help="an imported run")
    parser.add_argument("folder", help="the same model for Transformers")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--rows", type=int, default=rows, help=f"packed rows of {length} per step")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--warmup", type=int, default=WARMUP, help="steps")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="of Transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=SIDES)


def train_here(
    args: argparse.Namespace, task: TaskConfig, length: int, folder: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Trains with llmjax; returns the metrics of the last evaluation, and the training speed."""
    import llmjax

    run = llmjax.train(
        Config(
            run_dir=f"{folder}/run",
            seed=args.seed,
            init_from=args.run,
            epochs=args.epochs,
            compute=ComputeConfig(dropout=DROPOUT, dtype=args.dtype),
            tasks=(task,),
            data=DataConfig(batch_size=args.rows, length=length),
            optimizer=AdamWConfig(
                learning_rate=args.rate,
                beta2=0.999,
                weight_decay=DECAY,
                decay_embeddings=True,
                schedule=ScheduleConfig("linear", args.warmup, final_fraction=0.0),
            ),
            checkpoint=CheckpointConfig(every=0, every_minutes=None),
            evaluation=EvaluationConfig(every=0),
            log=LogConfig(display="none", every=1),
        )
    )
    path = Path(run)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    began = json.loads((path / "environment.json").read_text())["sessions"][0]["started"]
    evaluated = [line for line in lines if line["kind"] == "eval"][-1]
    times = [line["time"] for line in lines if line["kind"] == "train"]
    seconds = times[-1] - began
    examples = len(read_tables(task.train)) * args.epochs
    speed = {SPEED: examples / seconds, "seconds": seconds, STEADY: steady(examples, times)}
    return evaluated, speed


def steady(examples: float, times: Sequence[float]) -> float:
    """Examples per second after the first fifth of the steps; `times`: when each ended."""
    first = len(times) // 5
    return examples * (1 - (first + 1) / len(times)) / (times[-1] - times[first])


def step_times(torch_device: str) -> Any:
    """A callback of Transformers' Trainer, whose `times` say when each step ended."""
    import torch
    from transformers import TrainerCallback

    class Times(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch_device == "gpu" and state.global_step in (state.max_steps, first(state)):
                torch.cuda.synchronize()
            self.times.append(time.time())

    def first(state: Any) -> int:
        return 1 + state.max_steps // 5

    return Times()


def trainer_options(args: argparse.Namespace, examples: int, folder: str) -> Any:
    """Returns the options of Transformers' Trainer, with this many examples per step."""
    import torch
    from transformers import TrainingArguments

    torch.set_num_threads(args.threads)
    return TrainingArguments(
        output_dir=folder,
        seed=args.seed,
        num_train_epochs=args.epochs,
        per_device_train_batch_size=examples,
        per_device_eval_batch_size=2 * examples,
        learning_rate=args.rate,
        weight_decay=DECAY,
        warmup_steps=args.warmup,
        lr_scheduler_type="linear",
        bf16=args.dtype == "bfloat16",
        save_strategy="no",
        report_to=[],
        use_cpu=args.device == "cpu",
        disable_tqdm=True,
    )


def take_turns(module: str, arguments: Sequence[str], seeds: int) -> None:
    """Runs `python -m MODULE ARGUMENTS --side SIDE --seed SEED` for each, and prints a summary.

    Args:
      module: a module whose last line of output is a JSON object of metrics, SPEED among them.
      arguments: arguments of both sides.
      seeds: runs of each side.
    """
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for seed in range(seeds):
        for side, runs in results.items():
            options = ["--side", side, "--seed", str(seed)]
            command = [sys.executable, "-m", module, *arguments, *options]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(seed, side, runs[-1], flush=True)
    for side, runs in results.items():
        columns = [_spread(name, [run[name] for run in runs]) for name in runs[0]]
        print(f"{side:14}" + "   ".join(columns))
    pairs = zip(*(results[side] for side in SIDES), strict=True)
    ratios = [round(llmjax[SPEED] / reference[SPEED], 2) for llmjax, reference in pairs]
    print(f"samples/s, llmjax / Transformers, by seed: {ratios}")


def _spread(name: str, values: list[float]) -> str:
    if name in (SPEED, STEADY, "seconds"):
        return f"{name} {statistics.median(values):.1f} (median)"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{name} {statistics.mean(values):.4f} +- {deviation:.4f}"
