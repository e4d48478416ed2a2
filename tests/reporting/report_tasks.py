"""Runs of tasks made by hand: what they log, and what was measured of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_folders import START, RunMaker

from llmjax.model.config import ModelConfig
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.regression import RegressionTask

TOPIC, SCORE = ClassificationTask(name="topic"), RegressionTask(name="score")
LABELS = ["news", "sport", "<b>law</b>"]


def figure(value: float, low: float, high: float, larger: bool = True) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "larger_is_better": larger}


def label(name: str, truth: int, predicted: int) -> dict[str, Any]:
    shares = {"precision": 0.9, "recall": 0.8, "f1": 0.847}
    return {"label": name, **shares, "truth": truth, "told": predicted}


MEASURES: dict[str, Any] = {
    "topic": {
        "step": 40,
        "kind": "classification",
        "data": "what it holds out",
        "examples": 100,
        "loss": 0.31,
        "figures": {
            "accuracy": figure(0.9123, 0.85, 0.96),
            "f1_macro": figure(0.88, 0.8, 0.93),
            "loss": figure(0.31, 0.2, 0.4, larger=False),
        },
        "tables": {
            "confusion": {"labels": LABELS, "counts": [[50, 3, 0], [2, 30, 1], [0, 4, 10]]},
            "labels": [label(name, 10 * k + 10, 11) for k, name in enumerate(LABELS)],
        },
        "mistakes": [
            {
                "cost": 0.99,
                "place": "/somewhere/dev.tsv line 7",
                "text": "</script><script>alert(1)</script>\x1b",
                "truth": "news",
                "told": "sport (99%)",
            }
        ],
    },
    "score": {
        "step": 40,
        "kind": "regression",
        "examples": 100,
        "figures": {"pearson": figure(0.7, 0.6, 0.8), "mean_squared_error": figure(1, 0.5, 2)},
        "signature": "BLEU|nrefs:1|v:2.6",
    },
}


def train_line(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "kind": "train",
        "time": START + step,
        "loss": 2.0 / (1 + step),
        "bits_per_byte": None,
        "accuracy": 0.5 + step / 100,
        "learning_rate": 1e-4,
        "gradient_norm": 1.0,
        "epoch": step / 20,
        "tokens": 100 * step,
        "skipped": 0,
    }


def eval_line(step: int, prefix: str = "") -> dict[str, Any]:
    topic = {"loss": 0.4, "accuracy": 0.5 + step / 100, "f1_macro": 0.4, "examples": 100}
    score = {"score.loss": 1.0, "score.pearson": 0.6, "score.examples": 100} if prefix else {}
    head = {"step": step, "kind": "eval", "time": START + step, "loss": 0.4, "bits_per_byte": None}
    return head | {prefix + name: value for name, value in topic.items()} | score


def task_run(maker: RunMaker, *tasks: Any, measures: Any = None) -> Path:
    """The folder of a run of these tasks, forty steps long."""
    config = replace(
        maker.config,
        steps=40,
        tasks=tasks,
        model=ModelConfig(d_model=64, num_encoder_layers=2, num_decoder_layers=0, num_heads=2),
    )
    prefix = "topic." if len(tasks) > 1 else ""
    lines = [train_line(step) for step in range(1, 41)]
    lines += [eval_line(step, prefix) for step in (20, 40)]
    counts = {"train_examples": 600, "train_tokens": 9000, "heldout_rows": 100}
    facts = {"topic": {**counts, "labels": {"news": 400, "sport": 200}}}
    folder = replace(maker, config=config).write(lines, None, {"data": facts})
    if measures is not None:
        (folder / "measures.json").write_text(json.dumps(measures))
    return folder
