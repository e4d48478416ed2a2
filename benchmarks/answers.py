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

from benchmarks.turns import SPEED, take_turns
from llmjax.checkpoint.config import CheckpointConfig
from llmjax.config import Config
from llmjax.data.config import DataConfig
from llmjax.data.table_config import FileTable
from llmjax.data.tables import Row, read_tables
from llmjax.measures import answers
from llmjax.metrics.config import LogConfig
from llmjax.model.config import ModelConfig
from llmjax.optimizers import AdamWConfig, ScheduleConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.config import AnswerTask

RATE, DECAY, WARMUP, LENGTH, STRIDE, WINDOWS, LONGEST = 1e-4, 0.01, 50, 384, 128, 8, 30


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
    import llmjax

    task = AnswerTask(
        train=(FileTable((train,)),),
        dev=(FileTable((dev,)),),
        stride=STRIDE,
        max_answer_tokens=LONGEST,
    )
    run = llmjax.train(
        Config(
            run_dir=f"{folder}/run",
            seed=args.seed,
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
    evaluated = [line for line in lines if line["kind"] == "eval"][-1]
    seconds = trained["time"] - environment["sessions"][0]["started"]
    figures = {name: evaluated[name] for name in ("exact_match", "f1")}
    return figures | {SPEED: len(read_tables(task.train)) * args.epochs / seconds}


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
    import torch
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.folder)
    learnt, measured = (read_tables((FileTable((path,)),)) for path in (train, dev))
    trainer = Trainer(
        model=AutoModelForQuestionAnswering.from_pretrained(args.folder),
        args=TrainingArguments(
            output_dir=folder,
            seed=args.seed,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=WINDOWS,
            per_device_eval_batch_size=16,
            learning_rate=RATE,
            weight_decay=DECAY,
            warmup_steps=WARMUP,
            lr_scheduler_type="linear",
            bf16=args.dtype == "bfloat16",
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=features(tokenizer, learnt),  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    seconds = trainer.train().metrics["train_runtime"]
    windows = features(tokenizer, measured)
    told = trainer.predict(windows).predictions  # type: ignore[arg-type]
    truth = [row.values["answers"]["text"] for row in measured]
    found = answers(truth, best_answers(measured, windows, told))
    figures = {one.name: one.value for one in found.figures}
    return {name: figures[name] for name in ("exact_match", "f1")} | {
        SPEED: len(learnt) * args.epochs / seconds
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="an imported run")
    parser.add_argument("folder", help="the same model for Transformers")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rows", type=int, default=6, help=f"packed rows of {LENGTH} a step")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("llmjax", "Transformers"))
    args = parser.parse_args()
    if args.side is None:
        take_turns("benchmarks.answers", sys.argv[1:], args.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        train, dev = divided(args.data, Path(folder))
        side = ours if args.side == "llmjax" else theirs
        print(json.dumps(side(args, train, dev, folder)))


if __name__ == "__main__":
    main()
