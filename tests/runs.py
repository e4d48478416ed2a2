"""Short training runs on a few hundred sentences, and what they leave behind."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

import tiny
from llmjax.data.config import DataConfig
from llmjax.data.loader import Loader
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import make_mesh
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.reading import restore_params
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.training import session

WORDS = ["the", "a", "every", "cat", "dog", "bird", "sees", "likes", "hears", "old", "small"]

MODEL = Model(resolve(tiny.CONFIG, 264), ComputeConfig(dropout=0.1))


def write_text(path: Path, seed: int = 0, sentences: int = 600) -> Path:
    """A file of sentences drawn from a few words, four to a paragraph."""
    generator = np.random.default_rng(seed)
    lines = [" ".join(generator.choice(WORDS, 7)) for _ in range(sentences)]
    path.write_text("\n\n".join(". ".join(lines[i : i + 4]) for i in range(0, sentences, 4)))
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
    values, _ = restore_params(Path(folder) / "checkpoints", MODEL.abstract_params(), step)
    return jax.tree.map(np.asarray, values)


def metrics(folder: Path, kind: str = "train") -> list[dict]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


class Stop(Exception):
    """Ends a run as abruptly as an exception can."""


def stop_after_save(patch, step: int | None) -> None:
    """Raises Stop right after the save of this step has begun."""
    save = Checkpoints.save

    def stopping(self, state, progress):
        save(self, state, progress)
        if progress.step == step:
            raise Stop

    patch.setattr(Checkpoints, "save", stopping)


def before_step(patch, call: Callable[[int, dict], None]) -> None:
    """Calls `call(step, batch)` before each step, counted from 0: all of the one before is done."""
    take = Loader.__next__

    def calling(self):
        step, batch = take(self)
        call(step, batch)
        return step, batch

    patch.setattr(Loader, "__next__", calling)


def train_on(patch, count: int) -> None:
    """Trains on so many of the devices."""
    patch.setattr(session, "make_mesh", partial(make_mesh, devices=jax.devices()[:count]))


def digest(batch: dict) -> str:
    """A digest of a global batch, independent of its sharding."""
    parts = [name.encode() + np.asarray(batch[name]).tobytes() for name in sorted(batch)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
