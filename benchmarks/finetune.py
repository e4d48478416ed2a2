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

from benchmarks.recipe import add_arguments, trained_here, trainer_options
from benchmarks.turns import SPEED, take_turns
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_tables
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.regression import RegressionTask

LENGTH = 96


def ours(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Trains here."""
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
    found, speed = trained_here(args, task, LENGTH, folder)
    return {"figure": found["pearson" if args.target else "accuracy"], **speed}


def theirs(args: argparse.Namespace, folder: str) -> dict[str, float]:
    """Trains in Transformers."""
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

    trainer = Trainer(
        model=model,
        args=options,
        train_dataset=rows(args.train),  # type: ignore[arg-type]
        eval_dataset=rows(args.dev),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=measure,
    )
    trained = trainer.train().metrics
    return {
        "figure": trainer.evaluate()["eval_figure"],
        SPEED: trained["train_samples_per_second"],
        "seconds": trained["train_runtime"],
    }


def main(words: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--columns", nargs="*", default=[])
    parser.add_argument("--text", default="text")
    parser.add_argument("--pair")
    parser.add_argument("--label", default="label")
    parser.add_argument("--target")
    add_arguments(parser, rows=8, length=LENGTH)
    args = parser.parse_args(words)
    if args.side is None:
        take_turns("benchmarks.finetune", words, args.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps((ours if args.side == "llmjax" else theirs)(args, folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
