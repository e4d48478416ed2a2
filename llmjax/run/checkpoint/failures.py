"""What can go wrong with writing: foreseen where it can be, told in few words where it cannot."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from llmjax.errors import UserError

# What Orbax and TensorStore raise when a disk is full or a folder cannot be written.
WRITE_ERRORS = (OSError, ValueError, RuntimeError)


def check_space(folder: Path, state: Any) -> None:
    """Refuses to begin what is sure to be too large; process 0 looks for all.

    Args:
      folder: that exists, where it would be written.
      state: tree of arrays, counted whole.

    Raises:
      UserError: fewer bytes are free than the state has.
    """
    need, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(folder).free
    if jax.process_index() == 0 and free < need:
        raise UserError(
            folder,
            f"No space left on device: {need / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB free",
            "free some, or choose another folder; what was saved before is whole",
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
