"""One recipe of fine-tuning, here and in Transformers' Trainer, on the same machine and rows.

    llmjax import sample:minilm runs/minilm && llmjax export runs/minilm minilm-hf
    python -m benchmarks.finetune runs/minilm minilm-hf --train train.tsv --dev dev.tsv \
        --columns text label --seeds 3

Both take about 32 examples a step for as many epochs, with AdamW, the same rates, dropout and
warmup, in turns. Samples a second count training alone, compilation included. With --target the
column is a number (regression, Pearson), else a label (accuracy); with --pair rows have two texts.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

from benchmarks.turns import SPEED, take_turns
from llmjax.checkpoint.config import CheckpointConfig
from llmjax.config import Config
from llmjax.data.config import DataConfig
from llmjax.data.table_config import FileTable
from llmjax.data.tables import read_tables
from llmjax.metrics.config import LogConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers import AdamWConfig, ScheduleConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.config import ClassificationTask, RegressionTask

RATE, DECAY, WARMUP, LENGTH = 1e-4, 0.01, 50, 96


def ours(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains here; in a process of its own, called with --side."""
    import llmjax

    columns = tuple(args.columns)
    tables: dict[str, Any] = {
        "train": (FileTable((args.train,), columns),),
        "dev": (FileTable((args.dev,), columns),),
        "text": args.text,
        "pair": args.pair,
    }
    task: ClassificationTask | RegressionTask = ClassificationTask(label=args.label, **tables)
    if args.target:
        task = RegressionTask(target=args.target, **tables)
    with tempfile.TemporaryDirectory() as folder:
        run = llmjax.train(
            Config(
                run_dir=f"{folder}/run",
                seed=seed,
                init_from=args.run,
                epochs=args.epochs,
                model=ModelConfig(dropout=0.1, compute_dtype=args.dtype),
                tasks=(task,),
                data=DataConfig(batch_size=args.rows, length=LENGTH),
                optimizer=AdamWConfig(
                    learning_rate=RATE,
                    beta2=0.999,
                    weight_decay=DECAY,
                    decay_embeddings=True,
                    schedule=ScheduleConfig("linear", WARMUP, final_fraction=0.0),
                ),
                checkpoint=CheckpointConfig(every=0, every_minutes=None),
                evaluation=EvaluationConfig(every=0),
                log=LogConfig(display="none", every=1),
            )
        )
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        environment = json.loads((run / "environment.json").read_text())
    trained = [line for line in lines if line["kind"] == "train"][-1]
    seconds = trained["time"] - environment["sessions"][0]["started"]
    examples = len(read_tables(task.train)) * args.epochs
    evaluated = [line for line in lines if line["kind"] == "eval"][-1]
    figure = evaluated["pearson" if args.target else "accuracy"]
    return {"figure": figure, SPEED: examples / seconds, "seconds": seconds}


def theirs(args: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains in Transformers."""
    import numpy as np
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    columns = tuple(args.columns)

    def rows(path: str) -> list[dict[str, Any]]:
        found = []
        for row in read_tables((FileTable((path,), columns),)):
            pair = row.values[args.pair] if args.pair else None
            given = tokenizer(row.values[args.text], pair, truncation=True, max_length=LENGTH)
            answer = row.values[args.target or args.label]
            found.append({**given, "labels": float(answer) if args.target else labels[str(answer)]})
        return found

    known = read_tables((FileTable((args.train,), columns),))
    names = [] if args.target else sorted({str(row.values[args.label]) for row in known})
    labels = {name: number for number, name in enumerate(names)}
    kind = {"problem_type": "regression"} if args.target else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        args.folder, num_labels=max(1, len(names)), **kind
    )

    def measure(told: Any) -> dict[str, float]:
        if args.target:
            return {"figure": float(np.corrcoef(told.predictions[:, 0], told.label_ids)[0, 1])}
        return {"figure": float((told.predictions.argmax(-1) == told.label_ids).mean())}

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainingArguments(
            output_dir=folder,
            seed=seed,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=RATE,
            weight_decay=DECAY,
            warmup_steps=WARMUP,
            lr_scheduler_type="linear",
            bf16=args.dtype == "bfloat16",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=options,
            train_dataset=rows(args.train),  # type: ignore[arg-type]
            eval_dataset=rows(args.dev),  # type: ignore[arg-type]
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=measure,
        )
        trained = trainer.train().metrics
        figure = trainer.evaluate()["eval_figure"]
    return {
        "figure": figure,
        SPEED: trained["train_samples_per_second"],
        "seconds": trained["train_runtime"],
    }


def main(words: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="an imported run")
    parser.add_argument("folder", help="the same model for Transformers")
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--columns", nargs="*", default=[])
    parser.add_argument("--text", default="text")
    parser.add_argument("--pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--target")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rows", type=int, default=8, help=f"packed rows of {LENGTH} a step")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("llmjax", "Transformers"))
    args = parser.parse_args(words)
    if args.side is None:
        take_turns("benchmarks.finetune", words, args.seeds)
    else:
        print(json.dumps((ours if args.side == "llmjax" else theirs)(args, args.seed)))


if __name__ == "__main__":
    main(sys.argv[1:])
