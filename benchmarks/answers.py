"""Question answering with one recipe, in llmjax and Transformers' Trainer, on one machine.

    llmjax import sample:minilm runs/minilm && llmjax export runs/minilm minilm-hf
    python -m benchmarks.answers runs/minilm minilm-hf --data squad.json --seeds 3

Every fifth article of FILE (SQuAD format) is in the validation set. Both sides read contexts in the
same overlapping windows, about 8 per step, with AdamW and the same learning rate, dropout and
warmup, in turns. One function computes exact match and F1 for both. Questions per second count
training only, compilation included.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recipe import SPEED, add_arguments, take_turns, train_here, trainer_options
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import Row, read_tables
from llmjax.metrics.texts import extractive_answers
from llmjax.tasks.extractive_qa import ExtractiveQATask

LENGTH, STRIDE, WINDOWS, MAX_ANSWER = 384, 128, 8, 30
METRICS = ("exact_match", "f1")


def split(path: Path, folder: Path) -> tuple[str, str]:
    """Writes a training and a validation file, with every fifth article in the latter."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    sides = {
        "train": [article for index, article in enumerate(articles) if index % 5],
        "dev": articles[::5],
    }
    for name, part in sides.items():
        (folder / f"{name}.json").write_text(json.dumps({"data": part}), encoding="utf-8")
    return str(folder / "train.json"), str(folder / "dev.json")


def train_llmjax(args: argparse.Namespace, train: str, dev: str, folder: str) -> dict[str, float]:
    """Trains with llmjax."""
    task = ExtractiveQATask(
        train=(FileTable((train,)),),
        dev=(FileTable((dev,)),),
        stride=STRIDE,
        max_answer_tokens=MAX_ANSWER,
    )
    metrics, speed = train_here(args, task, LENGTH, folder)
    return {name: metrics[name] for name in METRICS} | speed


def features(tokenizer: Any, rows: list[Row]) -> list[dict[str, Any]]:
    """Returns windows as inputs of Transformers' models, each with its row and character spans."""
    encoded = tokenizer(
        [row.values["question"] for row in rows],
        [row.values["context"] for row in rows],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = []
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(number)
        spans = [
            span if part == 1 else None
            for part, span in zip(parts, encoded["offset_mapping"][number], strict=True)
        ]
        answer = rows[row].values["answers"]
        first = answer["answer_start"][0]
        end = first + len(answer["text"][0])
        inside = [i for i, span in enumerate(spans) if span and span[0] < end and span[1] > first]
        starts = bool(inside) and spans[inside[0]][0] <= first  # type: ignore[index]
        is_complete = starts and spans[inside[-1]][1] >= end  # type: ignore[index]
        names = ("input_ids", "attention_mask", "token_type_ids")
        windows.append(
            {name: encoded[name][number] for name in names}
            | {
                "start_positions": inside[0] if is_complete else 0,
                "end_positions": inside[-1] if is_complete else 0,
                "row": row,
                "spans": spans,
            }
        )
    return windows


def best_answers(rows: list[Row], windows: list[dict[str, Any]], logits: Any) -> list[str]:
    """Returns the best span of each row, from the start and end logits of all its windows."""
    import numpy as np

    best: list[tuple[float, str]] = [(-np.inf, "") for _ in rows]
    for window, start, end in zip(windows, *logits, strict=True):
        spans = window["spans"]
        for first in np.argsort(-start[: len(spans)])[:20]:
            for last in np.argsort(-end[: len(spans)])[:20]:
                if spans[first] and spans[last] and first <= last < first + MAX_ANSWER:
                    score = float(start[first] + end[last])
                    if score > best[window["row"]][0]:
                        context = rows[window["row"]].values["context"]
                        text = context[spans[first][0] : spans[last][1]]
                        best[window["row"]] = (score, text)
    return [text for _, text in best]


def train_transformers(
    args: argparse.Namespace, train: str, dev: str, folder: str
) -> dict[str, float]:
    """Trains with Transformers."""
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
    )

    options = trainer_options(args, WINDOWS, folder)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    train_rows, dev_rows = (read_tables((FileTable((path,)),)) for path in (train, dev))
    trainer = Trainer(
        model=AutoModelForQuestionAnswering.from_pretrained(args.folder),
        args=options,
        train_dataset=features(tokenizer, train_rows),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = trainer.train().metrics["train_runtime"]
    windows = features(tokenizer, dev_rows)
    logits = trainer.predict(windows).predictions  # type: ignore[arg-type]
    truth = [row.values["answers"]["text"] for row in dev_rows]
    evaluated = extractive_answers(truth, best_answers(dev_rows, windows, logits))
    metrics = {metric.name: metric.value for metric in evaluated.metrics}
    speed = {SPEED: len(train_rows) * args.epochs / seconds, "seconds": seconds}
    return {name: metrics[name] for name in METRICS} | speed


def main(arguments: list[str]) -> None:
    """Runs one side, or both in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    add_arguments(parser, rows=6, length=LENGTH)
    args = parser.parse_args(arguments)
    if args.side is None:
        take_turns("benchmarks.answers", arguments, args.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        train, dev = split(args.data, Path(folder))
        run_side = train_llmjax if args.side == "llmjax" else train_transformers
        print(json.dumps(run_side(args, train, dev, folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
