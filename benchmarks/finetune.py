"""Fine-tuning with one recipe, in llmjax and Transformers' Trainer, on one machine and data set.

    llmjax import sample:minilm runs/minilm && llmjax export runs/minilm minilm-hf
    python -m benchmarks.finetune runs/minilm minilm-hf --train train.tsv --dev dev.tsv \
        --columns text label --seeds 3

Both train on about 32 examples per step for the same number of epochs, with AdamW and the same
learning rate, dropout and warmup, in turns. Samples per second count training only, compilation
included; steady ones leave out the first fifth of the steps. With --target the column is a number
(regression, Pearson correlation), else a label (accuracy); with --pair rows have two texts.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

from benchmarks.recipe import (
    SPEED,
    STEADY,
    add_arguments,
    steady,
    step_times,
    take_turns,
    train_here,
    trainer_options,
)
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_tables
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.regression import RegressionTask

LENGTH = 96


def train_llmjax(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Trains with llmjax."""
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
    metrics, speed = train_here(args, task, LENGTH, folder)
    return {"metric": metrics["pearson" if args.target else "accuracy"], **speed}


def train_transformers(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Trains with Transformers."""
    import numpy as np
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
    )

    options = trainer_options(args, 32, folder)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    columns = tuple(args.columns)

    def rows(path: str) -> list[dict[str, Any]]:
        examples = []
        for row in read_tables((FileTable((path,), columns),)):
            pair = row.values[args.pair] if args.pair else None
            encoded = tokenizer(row.values[args.text], pair, truncation=True, max_length=LENGTH)
            value = row.values[args.target or args.label]
            label = float(value) if args.target else labels[str(value)]
            examples.append({**encoded, "labels": label})
        return examples

    train_rows = read_tables((FileTable((args.train,), columns),))
    names = [] if args.target else sorted({str(row.values[args.label]) for row in train_rows})
    labels = {name: index for index, name in enumerate(names)}
    kind = {"problem_type": "regression"} if args.target else {}
    model = AutoModelForSequenceClassification.from_pretrained(
        args.folder, num_labels=max(1, len(names)), **kind
    )

    def measure(outputs: Any) -> dict[str, float]:
        if args.target:
            pearson = np.corrcoef(outputs.predictions[:, 0], outputs.label_ids)[0, 1]
            return {"metric": float(pearson)}
        return {"metric": float((outputs.predictions.argmax(-1) == outputs.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=options,
        train_dataset=rows(args.train),  # type: ignore[arg-type]
        eval_dataset=rows(args.dev),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=measure,
        callbacks=[ends := step_times(args.device)],
    )
    trained = trainer.train().metrics
    return {
        "metric": trainer.evaluate()["eval_metric"],
        SPEED: trained["train_samples_per_second"],
        "seconds": trained["train_runtime"],
        STEADY: steady(len(trainer.train_dataset) * args.epochs, ends.times),
    }


def make_parser() -> argparse.ArgumentParser:
    """The arguments of both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--columns", nargs="*", default=[])
    parser.add_argument("--text", default="text")
    parser.add_argument("--pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--target")
    add_arguments(parser, rows=8, length=LENGTH)
    return parser


def main(arguments: list[str]) -> None:
    """Runs one side, or both in turns."""
    args = make_parser().parse_args(arguments)
    if args.side is None:
        take_turns("benchmarks.finetune", arguments, args.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        run_side = train_llmjax if args.side == "llmjax" else train_transformers
        print(json.dumps(run_side(args, folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
