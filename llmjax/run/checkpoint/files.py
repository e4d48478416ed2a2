"""The folder of checkpoints as files: which are there, which are kept, which are whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from llmjax.run.checkpoint import manifest
from llmjax.run.checkpoint.config import CheckpointConfig

UNFINISHED = ".orbax-checkpoint-tmp"
DELETED = ".deleted"
DAMAGED = ".damaged"


def steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints in `folder`, in order."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def sweep(folder: Path) -> None:
    """Removes what an interrupted process left half-written or half-deleted."""
    for path in folder.iterdir():
        if UNFINISHED in path.name or path.name.endswith(DELETED):
            shutil.rmtree(path, ignore_errors=True)


def delete(folder: Path, step: int) -> None:
    """Deletes a checkpoint; renamed first, so that a half-deleted one is never taken for whole."""
    doomed = (folder / str(step)).rename(folder / f"{step}{DELETED}")
    shutil.rmtree(doomed, ignore_errors=True)


def set_aside(folder: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that the step can be saved again; returns its new path."""
    target = folder / f"{step}{DAMAGED}"
    if target.exists():
        shutil.rmtree(target)
    return (folder / str(step)).rename(target)


def steps_to_delete(
    there: list[int], config: CheckpointConfig, loss: Callable[[int], float | None]
) -> list[int]:
    """Which of the finished steps `there` (in order) are neither among the last nor the best."""
    losses = {step: loss(step) for step in there} if config.keep_best else {}
    scored = [(value, -step) for step, value in losses.items() if value is not None]
    best = {-negative for _, negative in sorted(scored)[: config.keep_best]}
    return [step for step in there[: -config.keep_last] if step not in best]


def damage(folder: Path, step: int, item: str | None = None) -> str | None:
    """What is wrong with a checkpoint (or an item of it); processes share the work and agree."""
    part = (jax.process_index(), jax.process_count())
    found = manifest.damage(folder / str(step), item, *part)
    if jax.process_count() == 1:
        return found
    wrong = multihost_utils.process_allgather(np.int32(found is not None))
    return found or ("another process finds it damaged" if np.any(wrong) else None)
