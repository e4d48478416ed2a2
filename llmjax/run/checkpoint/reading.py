"""Reading complete checkpoints onto any mesh, with or without the optimizer state."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from llmjax.errors import UserError
from llmjax.run.checkpoint import files
from llmjax.run.checkpoint.files import without_warnings
from llmjax.storage.stores.mirror import fetch
from llmjax.storage.writing import check_utf8

log = logging.getLogger(__name__)
T = TypeVar("T")

SKIPPED = ocp.PLACEHOLDER
"""In place of an array's shape: it is not read."""


def restore_params(folder: Path, abstract: Any, step: int | None = None) -> tuple[Any, int]:
    """Verifies and reads the parameters of a checkpoint.

    Args:
      folder: RUN/checkpoints.
      abstract: tree of jax.ShapeDtypeStruct: the parameters' shapes, and the dtypes and shardings
        to read into, on any mesh.
      step: which checkpoint; None for the newest complete one.

    Returns:
      The parameters, as `abstract` says, and their step.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it holds other parameters.
    """
    step = complete_step(folder, step, {"params": abstract})
    return read_params(folder, step, abstract), step


def complete_step(
    folder: Path, step: int | None = None, items: Mapping[str, Any] | None = None
) -> int:
    """The step of a checkpoint, after its parameters' checksums are verified.

    Args:
      folder: RUN/checkpoints.
      step: which checkpoint; None for the newest complete one.
      items: as of `files.damage`.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    check_utf8(folder)
    steps = files.steps(folder)
    if step is None:
        step, _ = newest_complete(folder, "params", items)
        if step is None:
            raise UserError(folder, "holds no checkpoint", "train first")
    elif step not in steps:
        have = f"it has {_listed(steps)}" if steps else "it has none"
        raise UserError(folder, f"has no checkpoint of step {step}", have)
    elif reason := files.damage(folder, step, "params", items):
        steps.remove(step)
        fix = f"others here: {_listed(steps)}" if steps else "restore it from a copy"
        raise UserError(folder / str(step), f"is damaged: {reason}", fix)
    return step


def read_params(folder: Path, step: int, abstract: Any) -> Any:
    """Reads the parameters of a verified checkpoint; see `restore_params`.

    Leaves of `abstract` that are SKIPPED are not read, and stay as they are.

    Raises:
      UserError: it holds other parameters.
    """
    if any(leaf is SKIPPED for leaf in jax.tree.leaves(abstract)):
        handler: ocp.CheckpointHandler = ocp.PyTreeCheckpointHandler()
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        restore: ocp.args.CheckpointArgs = ocp.args.PyTreeRestore(abstract, arguments)
    else:
        handler, restore = params_handler(abstract), ocp.args.StandardRestore(abstract)
    return read_items(folder / str(step), {"params": handler}, params=restore)["params"]


def newest_complete(
    folder: Path, item: str | None = None, items: Mapping[str, Any] | None = None
) -> tuple[int | None, list[int]]:
    """The newest checkpoint whose checksums hold, and the damaged ones that are newer.

    Args:
      folder: RUN/checkpoints.
      item, items: as of `files.damage`.

    Returns:
      (step, damaged steps); (None, []) if there are no checkpoints.

    Raises:
      UserError: there are checkpoints, but none is complete. (A run must not start over unasked.)
    """
    damaged: list[int] = []
    reason: str | None = ""
    for step in reversed(files.steps(folder)):
        reason = files.damage(folder, step, item, items)
        if reason is None:
            return step, damaged
        log.warning("checkpoint %d is damaged: %s; trying an earlier one", step, reason)
        damaged.append(step)
    if damaged:
        raise UserError(
            folder,
            f"no complete checkpoint among {_listed(damaged)} ({reason})",
            "restore one from a copy; to start over, choose another run folder",
        )
    return None, []


def params_handler(params: Any) -> ocp.StandardCheckpointHandler:
    """A handler for parameters (arrays or their shapes) that limits memory: by default Orbax
    copies up to 96 GB at once."""
    sizes = (leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    limit = 1 + int(max(sizes, default=0) / 1e9)  # GB; the largest array has to fit
    return ocp.StandardCheckpointHandler(save_concurrent_gb=limit, restore_concurrent_gb=limit)


def read_items(
    path: Path, handlers: dict[str, ocp.CheckpointHandler] | None = None, **items: Any
) -> Any:
    """Reads items (Orbax restore arguments) of the checkpoint at `path`.

    Args:
      path: the checkpoint.
      handlers: for items that need other than Orbax's standard handler.
      **items: Orbax restore arguments by item.

    Raises:
      UserError: the checkpoint does not hold these items.
    """
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers or {})) as checkpointer:
        try:
            return checkpointer.restore(path.absolute(), args=ocp.args.Composite(**items))
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise UserError(
                path,
                f"does not hold what this config describes: {str(error).splitlines()[0]}",
                "it belongs to another model or optimizer",
            ) from error


def wait_for_all(name: str) -> None:
    """A barrier: returns when every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def process_0_first(name: str, make: Callable[[], T]) -> T:
    """Returns `make()`, called in process 0 before all others, which find what it has stored.

    Args:
      name: of the barrier between them.
      make: reads or prepares something.
    """
    is_first = jax.process_index() == 0
    made = [make()] if is_first else []
    wait_for_all(name)
    return made[0] if is_first else make()


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(steps)))


def holds_only_params(checkpoint: Path) -> bool:
    """Whether a checkpoint (RUN/checkpoints/STEP) has parameters but no training state."""
    return (checkpoint / "params").is_dir() and not (checkpoint / "training").exists()


def stored_leaves(folder: Path, step: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and stored dtypes of a checkpoint's parameters, by dotted path; reads no values.

    Args:
      folder: RUN/checkpoints.
      step: which checkpoint.

    Raises:
      UserError: it is damaged.
    """
    path = folder.absolute() / str(step)
    if not (path / "params").is_dir():
        return {}
    run, within = folder.absolute().parent, f"{folder.name}/{step}/params"
    fetch(run, within, lambda name: not name.endswith("/c") and "/c/" not in name)  # chunks
    return stored_items(path, "params")


def stored_items(checkpoint: Path, item: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and stored dtypes of an item of a checkpoint, by dotted path; reads no values.

    Args:
      checkpoint: RUN/checkpoints/STEP.
      item: "params" or "training".

    Raises:
      UserError: it is damaged.
    """
    handler = ocp.CompositeCheckpointHandler(**{item: ocp.StandardCheckpointHandler()})
    with without_warnings(), ocp.Checkpointer(handler) as checkpointer:  # of items left out
        try:
            tree = checkpointer.metadata(checkpoint).item_metadata[item]
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            problem = f"its list of arrays cannot be read: {error}"
            raise UserError(checkpoint, problem, "restore it from a copy") from error
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "dtype"))
    return {
        jax.tree_util.keystr(keys, simple=True, separator="."): jax.ShapeDtypeStruct(
            tuple(leaf.shape), leaf.dtype
        )
        for keys, leaf in leaves
    }
