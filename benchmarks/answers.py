"""Question answering by one recipe, here and in Transformers' Trainer, on the same machine.

    llmjax import sample:minilm runs/minilm && llmjax export runs/minilm minilm-hf
    python -m benchmarks.answers runs/minilm minilm-hf --data squad.json --seeds 3

Every fifth article of FILE (SQuAD's form) is held out. Both read contexts in the same overlapping
windows, about 8 a step, with AdamW, the same rates, dropout and warmup, in turns. Exact match and
F1 are counted by one function for both. Questions a second count training alone, compilation
included.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.recipe import add_arguments, trained_here, trainer_options
from benchmarks.turns import SPEED, take_turns
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import Row, read_tables
from llmjax.metrics.texts import extractive_answers as answers
from llmjax.tasks.extractive_qa import ExtractiveQATask

LENGTH, STRIDE, WINDOWS, LONGEST = 384, 128, 8, 30
FIGURES = ("exact_match", "f1")


def divided(path: Path, folder: Path) -> tuple[str, str]:
    """Two files of whole articles: to learn from, and every fifth to measure on."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    sides = {
        "train": [one for number, one in enumerate(articles) if number % 5],
        "dev": articles[::5],
    }
    for name, part in sides.items():
        (folder / f"{name}.json").write_text(json.dumps({"data": part}), encoding="utf-8")
    return str(folder / "train.json"), str(folder / "dev.json")


def ours(args: argparse.Namespace, train: str, dev: str, folder: str) -> dict[str, float]:
    """Trains here."""
    task = ExtractiveQATask(
        train=(FileTable((train,)),),
        dev=(FileTable((dev,)),),
        stride=STRIDE,
        max_answer_tokens=LONGEST,
    )
    found, speed = trained_here(args, task, LENGTH, folder)
    return {name: found[name] for name in FIGURES} | speed


def features(tokenizer: Any, rows: list[Row]) -> list[dict[str, Any]]:
    """Windows as Transformers' models learn them, each with its row and characters."""
    given = tokenizer(
        [row.values["question"] for row in rows],
        [row.values["context"] for row in rows],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = []
    for number, row in enumerate(given["overflow_to_sample_mapping"]):
        part = given.sequence_ids(number)
        places = [
            place if part[index] == 1 else None
            for index, place in enumerate(given["offset_mapping"][number])
        ]
        answer = rows[row].values["answers"]
        first = answer["answer_start"][0]
        end = first + len(answer["text"][0])
        inside = [i for i, p in enumerate(places) if p and p[0] < end and p[1] > first]
        starts = bool(inside) and places[inside[0]][0] <= first  # type: ignore[index]
        whole = starts and places[inside[-1]][1] >= end  # type: ignore[index]
        names = ("input_ids", "attention_mask", "token_type_ids")
        found.append(
            {name: given[name][number] for name in names}
            | {
                "start_positions": inside[0] if whole else 0,
                "end_positions": inside[-1] if whole else 0,
                "row": row,
                "places": places,
            }
        )
    return found


def best_answers(rows: list[Row], windows: list[dict[str, Any]], told: Any) -> list[str]:
    """The best span of each row, from the logits of all its windows."""
    import numpy as np

    best: list[tuple[float, str]] = [(-np.inf, "") for _ in rows]
    for window, start, end in zip(windows, *told, strict=True):
        places = window["places"]
        for first in np.argsort(-start[: len(places)])[:20]:
            for last in np.argsort(-end[: len(places)])[:20]:
                if places[first] and places[last] and first <= last < first + LONGEST:
                    score = float(start[first] + end[last])
                    if score > best[window["row"]][0]:
                        context = rows[window["row"]].values["context"]
                        text = context[places[first][0] : places[last][1]]
                        best[window["row"]] = (score, text)
    return [text for _, text in best]


def theirs(args: argparse.Namespace, train: str, dev: str, folder: str) -> dict[str, float]:
    """Trains in Transformers."""
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
    )

    options = trainer_options(args, WINDOWS, folder)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    learnt, measured = (read_tables((FileTable((path,)),)) for path in (train, dev))
    trainer = Trainer(
        model=AutoModelForQuestionAnswering.from_pretrained(args.folder),
        args=options,
        train_dataset=features(tokenizer, learnt),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = trainer.train().metrics["train_runtime"]
    windows = features(tokenizer, measured)
    told = trainer.predict(windows).predictions  # type: ignore[arg-type]
    truth = [row.values["answers"]["text"] for row in measured]
    found = answers(truth, best_answers(measured, windows, told))
    figures = {one.name: one.value for one in found.metrics}
    speed = {SPEED: len(learnt) * args.epochs / seconds, "seconds": seconds}
    return {name: figures[name] for name in FIGURES} | speed


def main(words: list[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    add_arguments(parser, rows=6, length=LENGTH)
    args = parser.parse_args(words)
    if args.side is None:
        take_turns("benchmarks.answers", words, args.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        train, dev = divided(args.data, Path(folder))
        side = ours if args.side == "llmjax" else theirs
        print(json.dumps(side(args, train, dev, folder)))


if __name__ == "__main__":
    main(sys.argv[1:])
