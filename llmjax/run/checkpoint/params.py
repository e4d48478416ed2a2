"""Checkpoints of parameters alone: what an imported model begins with.

    params/   position.json   checksums.json

as in a checkpoint of training, without the optimizer's state.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from llmjax.errors import UserError
from llmjax.run.checkpoint import manifest
from llmjax.run.checkpoint.failures import WRITE_ERRORS, check_space, reason, without_warnings
from llmjax.run.checkpoint.files import UNFINISHED
from llmjax.run.checkpoint.progress import TrainProgress, write_progress
from llmjax.run.checkpoint.reading import params_handler, wait_for_all
from llmjax.storage.names import check_utf8

NOWHERE = TrainProgress(step=0, seed=0, batch_size=0, length=0, corpus="")
"""Of parameters that no training of ours has touched."""


def save_params(folder: Path, params: Any, step: int = 0) -> None:
    """Writes a checkpoint; nothing is copied in memory. All processes call this.

    Args:
      folder: RUN/checkpoints.
      params: nested dict of jax.Array, on any mesh, of any float dtype.
      step: its name.

    Raises:
      UserError: it cannot be written.
    """
    check_utf8(folder)
    folder = folder.absolute()
    unfinished = folder / f"{step}{UNFINISHED}-params"
    items = ocp.args.Composite(params=ocp.args.StandardSave(params))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = ocp.CompositeCheckpointHandler(params=params_handler(params))
        check_space(folder, params)
        with without_warnings(), ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(unfinished, args=items, force=True)
        if jax.process_index() == 0:
            write_progress(unfinished, NOWHERE)
            manifest.write(unfinished)
            unfinished.rename(folder / str(step))
    except WRITE_ERRORS as error:
        raise UserError(folder / str(step), f"cannot be saved: {reason(error)}") from error
    wait_for_all("parameters saved")


def holds_only_params(checkpoint: Path) -> bool:
    """Whether a checkpoint (RUN/checkpoints/STEP) is one of parameters alone."""
    return (checkpoint / "params").is_dir() and not (checkpoint / "training").exists()


def stored_leaves(folder: Path, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The parameters of a checkpoint by their dotted paths, as they are stored; none is read.

    Args:
      folder: RUN/checkpoints.
      step: which checkpoint.

    Raises:
      UserError: it is damaged.
    """
    path = folder.absolute() / str(step)
    if not (path / "params").is_dir():
        return {}
    handler = ocp.CompositeCheckpointHandler(params=ocp.StandardCheckpointHandler())
    with without_warnings(), ocp.Checkpointer(handler) as checkpointer:  # of what it leaves out
        try:
            tree = checkpointer.metadata(path).item_metadata["params"]
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            reason = f"its list of parameters cannot be read: {error}"
            raise UserError(path, reason, "restore it from a copy") from error
    found = jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "dtype"))
    return {
        ".".join(str(getattr(key, "key", key)) for key in path): jax.ShapeDtypeStruct(
            tuple(leaf.shape), leaf.dtype
        )
        for path, leaf in found
    }
