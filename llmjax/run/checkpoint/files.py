"""The folder of checkpoints as files: which are there, which are kept, which are damaged.

Orbax itself stores no checksum of array data. Ours are written before a checkpoint becomes visible,
and verified when it is read.
"""

import contextlib
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_manager import CheckpointInfo
from orbax.checkpoint.checkpoint_managers import (
    BestN,
    LatestN,
    PreservationContext,
    PreservationPolicy,
)

from llmjax.errors import UserError
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.storage.checksums import find_damage, write_manifest

# Orbax still writes these after the checksums are taken.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files of a checkpoint; OSError where that is impossible."""
    write_manifest(folder, LATER)


# What Orbax and TensorStore raise when a disk is full or a folder cannot be written.
WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def check_space(folder: Path, state: Any) -> None:
    """Refuses to begin what is sure to be too large; process 0 looks for all.

    Args:
      folder: that exists, where it would be written.
      state: tree of arrays, counted as global arrays.

    Raises:
      UserError: fewer bytes are free than the state has.
    """
    need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(folder).free
    if jax.process_index() == 0 and free < need:
        raise UserError(
            folder,
            f"No space left on device: {need / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB free",
            "free some, or choose another folder; earlier checkpoints are complete",
        )


def reason(error: BaseException) -> str:
    """TensorStore's messages name files and requests that mean nothing to a user."""
    text = str(error)
    known = ("No space left on device", "Disk quota exceeded", "Permission denied")
    return next((words for words in known if words in text), text.splitlines()[0][:200])


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Orbax logs a traceback of what it also raises, and warns of what is meant to be so."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


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
    """Deletes a checkpoint; renamed first, so that a half-deleted one is never read."""
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
    """Which of the finished steps `there` (in order) are neither among the last nor the best.

    Orbax's BestN keeps all of no more than N checkpoints, also those without a loss: it sees only
    those that have one.
    """
    last = LatestN(config.keep_last)
    best = BestN(get_metric_fn=lambda loss: loss, reverse=True, n=config.keep_best)
    losses = {step: loss(step) for step in there} if config.keep_best else {}
    measured = [step for step in there if losses.get(step) is not None]
    kept = {*_preserved(last, there, losses), *_preserved(best, measured, losses)}
    return [step for step in there if step not in kept]


def _preserved(
    policy: PreservationPolicy, steps: list[int], losses: Mapping[int, float | None]
) -> Iterator[int]:
    now = datetime.now()  # none of our policies goes by time
    checkpoints = [CheckpointInfo(step, now, losses.get(step)) for step in steps]
    flags = policy.should_preserve(checkpoints, context=PreservationContext())
    return itertools.compress(steps, flags)


def damage(folder: Path, step: int, item: str | None = None) -> str | None:
    """What is wrong with a checkpoint (or an item of it); processes share the work and agree."""
    part = (jax.process_index(), jax.process_count())
    problem = find_damage(folder / str(step), item, *part, LATER)
    if jax.process_count() == 1:
        return problem
    wrong = multihost_utils.process_allgather(np.int32(problem is not None))
    return problem or ("another process finds it damaged" if np.any(wrong) else None)
