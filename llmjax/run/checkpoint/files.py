"""Checkpoint files: listing, retention, checksums.

Orbax stores no checksums of array data. Ours are written before a checkpoint becomes visible, and
verified when it is read.
"""

import contextlib
import itertools
import json
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
from llmjax.run.checkpoint.chunks import needed_files
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.storage.checksums import file_checksums, find_damage, write_manifest
from llmjax.storage.json_documents import read_json
from llmjax.storage.stores.mirror import fetch, is_copy

# Orbax writes these after the checksums are taken.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files of a checkpoint; those that `write_part` has computed are
    taken over, and the parts deleted.

    Raises:
      OSError: they cannot be read or written.
      UserError: a part is damaged.
    """
    known: dict[str, list[int]] = {}
    for part in folder.glob(f"{PART}*"):
        known |= read_json(part)
        part.unlink()
    write_manifest(folder, LATER, known)


PART = ".checksums.process_"
"""Prefix of the file that holds the checksums of one process's files."""


def write_part(folder: Path) -> None:
    """Writes the checksums of the files that this process has written into an unfinished
    checkpoint, so that process 0 need not read them.

    Raises:
      OSError: they cannot be read or written.
    """
    process = jax.process_index()
    own = [
        path
        for pattern in (f"*/ocdbt.process_{process}/**/*", f"*/array_metadatas/process_{process}")
        for path in folder.glob(pattern)
        if path.is_file()
    ]
    sums = file_checksums(folder, [str(path.relative_to(folder)) for path in own])
    named = {_finished(name): value for name, value in sums.items()}
    (folder / f"{PART}{process}").write_text(json.dumps(named), encoding="utf-8")


def _finished(name: str) -> str:
    """A file's path when its item's folder has its final name."""
    item, rest = name.split("/", 1)
    return f"{item.split(UNFINISHED)[0]}/{rest}"


# What Orbax and TensorStore raise when a disk is full or a folder cannot be written.
WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def check_space(folder: Path, need: int) -> None:
    """Checks that the disk has room for a checkpoint.

    Args:
      folder: an existing folder, where it would be written.
      need: its bytes.

    Raises:
      UserError: it has fewer bytes free.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            folder,
            f"No space left on device: {need / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB free",
            "free some, or choose another folder; earlier checkpoints are complete",
        )


def reason(error: BaseException) -> str:
    """The cause of a write error, without TensorStore's internal details."""
    text = str(error)
    known = ("No space left on device", "Disk quota exceeded", "Permission denied")
    return next((words for words in known if words in text), text.splitlines()[0][:200])


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Orbax: it logs needless warnings, and tracebacks of errors that it also raises."""
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
    """Removes checkpoints that are half-written or half-deleted."""
    for path in folder.iterdir():
        if UNFINISHED in path.name or path.name.endswith(DELETED):
            shutil.rmtree(path, ignore_errors=True)


def delete(folder: Path, step: int) -> None:
    """Deletes a checkpoint, renamed first so that a half-deleted one is never read."""
    doomed = (folder / str(step)).rename(folder / f"{step}{DELETED}")
    shutil.rmtree(doomed, ignore_errors=True)


def set_aside(folder: Path, step: int) -> Path:
    """Renames a damaged checkpoint, so that the step can be saved again; returns its new path."""
    target = folder / f"{step}{DAMAGED}"
    if target.exists():
        shutil.rmtree(target)
    return (folder / str(step)).rename(target)


def steps_to_delete(
    steps: list[int], config: CheckpointConfig, loss: Callable[[int], float | None]
) -> list[int]:
    """Those of the finished steps (in order) that are neither among the last nor the best.

    Orbax's BestN is given only checkpoints with a loss, as it keeps all of up to N checkpoints.
    """
    last = LatestN(config.keep_last)
    best = BestN(get_metric_fn=lambda loss: loss, reverse=True, n=config.keep_best)
    losses = {step: loss(step) for step in steps} if config.keep_best else {}
    evaluated = [step for step in steps if losses.get(step) is not None]
    kept = {*_preserved(last, steps, losses), *_preserved(best, evaluated, losses)}
    return [step for step in steps if step not in kept]


def _preserved(
    policy: PreservationPolicy, steps: list[int], losses: Mapping[int, float | None]
) -> Iterator[int]:
    now = datetime.now()  # none of our policies uses the time
    checkpoints = [CheckpointInfo(step, now, losses.get(step)) for step in steps]
    flags = policy.should_preserve(checkpoints, context=PreservationContext())
    return itertools.compress(steps, flags)


def damage(
    folder: Path, step: int, item: str | None = None, items: Mapping[str, Any] | None = None
) -> str | None:
    """The damage of a checkpoint, or of an item of it; None if complete. All processes learn of
    any damage.

    The processes share the work, but for the copy of a run in a bucket: each fetches and verifies
    what it will read.

    Args:
      folder: RUN/checkpoints.
      step: which checkpoint.
      item: verify only this item's files, where only they will be read.
      items: what will be restored of it, by item, as trees of jax.ShapeDtypeStruct with shardings;
        None: everything.
    """
    checkpoint, run = folder / str(step), folder.parent
    if is_copy(run):
        needed = needed_files(checkpoint, items or {})
        name = f"{folder.name}/{step}"
        within = name if item is None else f"{name}/{item}"
        fetch(run, within, lambda file: needed(file.removeprefix(f"{name}/")))
        problem = find_damage(checkpoint, item, without=LATER, needed=needed)
    else:
        part = (jax.process_index(), jax.process_count())
        problem = find_damage(checkpoint, item, *part, LATER)
    if jax.process_count() == 1:
        return problem
    is_damaged = multihost_utils.process_allgather(np.int32(problem is not None))
    return problem or ("another process finds it damaged" if np.any(is_damaged) else None)
