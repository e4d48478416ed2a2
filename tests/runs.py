"""Short training runs on a few hundred sentences, and what they leave behind."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import tiny
from llmjax.data.config import DataConfig
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.reading import restore_params
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig

WORDS = ["the", "a", "every", "cat", "dog", "bird", "sees", "likes", "hears", "old", "small"]

MODEL = Model(resolve(tiny.CONFIG, 264), ComputeConfig(dropout=0.1))


def write_text(path: Path, seed: int = 0, sentences: int = 600) -> Path:
    """A file of sentences drawn from a few words, four to a paragraph."""
    generator = np.random.default_rng(seed)
    drawn = [" ".join(generator.choice(WORDS, 7)) for _ in range(sentences)]
    path.write_text("\n\n".join(". ".join(drawn[i : i + 4]) for i in range(0, sentences, 4)))
    return path


def config(folder: Path, **changes) -> Config:
    """A run of 8 steps in `folder`/run on `folder`/text, with dropout; changes replace fields."""
    text = folder / "text"
    if not text.exists():
        write_text(text)
    base = Config(
        run_dir=str(folder / "run"),
        steps=8,
        model=tiny.CONFIG,
        compute=ComputeConfig(dropout=0.1),
        tokenizer=BytesConfig(),
        data=DataConfig(
            sources=(TextSource((str(text),), chunk_bytes=64),),
            batch_size=8,
            length=16,
            workers=1,
            validation_fraction=0.05,
            cache_dir=str(folder / "cache"),
        ),
        optimizer=AdamWConfig(learning_rate=0.01, schedule=ScheduleConfig(warmup_steps=2)),
        checkpoint=CheckpointConfig(every=2, keep_last=100),
        evaluation=EvaluationConfig(every=0, max_tokens=64, batch_size=8),
        log=LogConfig(every=1, display="none"),
    )
    return replace(base, **changes)


def params(folder: Path, step: int | None = None) -> dict:
    """The parameters of a checkpoint, on the host."""
    found, _ = restore_params(folder / "checkpoints", MODEL.abstract_params(), step)
    return jax.tree.map(np.asarray, found)


def metrics(folder: Path, kind: str = "train") -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def digest(batch: dict) -> str:
    """Of a global batch's contents, whatever its layout."""
    parts = [name.encode() + np.asarray(batch[name]).tobytes() for name in sorted(batch)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
