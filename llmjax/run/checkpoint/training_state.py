"""The item training/ of a checkpoint: the step and the optimizer state, by path.

What `optimizers.spikes` remembers of the recent steps is restored if the config still asks for as
much. Otherwise it is dropped, or begins empty, so that a resumed run may start or stop looking for
spikes.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from llmjax.optimizers.spikes import Recent, SpikeState
from llmjax.run.checkpoint.reading import read_items, stored_items
from llmjax.state import TrainState


def training_items(step: Any, opt_state: Any) -> dict[str, Any]:
    """The leaves by path, so that files do not depend on Optax's classes."""
    leaves = jax.tree.leaves_with_path(opt_state)
    return {"step": step} | {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def read_state(checkpoint: Path, abstract: TrainState) -> TrainState:
    """Reads a verified checkpoint.

    Args:
      checkpoint: RUN/checkpoints/STEP.
      abstract: shapes, dtypes and shardings of the state, on any mesh.

    Raises:
      UserError: it holds another model or optimizer.
    """
    stored = _as_stored(checkpoint, abstract)
    items = training_items(abstract.step, stored)
    read = read_items(
        checkpoint,
        params=ocp.args.StandardRestore(abstract.params),
        training=ocp.args.StandardRestore(items),
    )
    training = read["training"]
    leaves = [training[path] for path in items if path != "step"]
    opt_state = jax.tree.unflatten(jax.tree.structure(stored), leaves)
    return TrainState(training["step"], read["params"], _as_wanted(opt_state, abstract.opt_state))


def _as_stored(checkpoint: Path, abstract: TrainState) -> Any:
    """The abstract optimizer state, with what the checkpoint holds of recent steps."""
    state = abstract.opt_state
    inner = state.inner if isinstance(state, SpikeState) else state
    stored = stored_items(checkpoint, "training")
    names = [f".recent.{field}" for field in Recent._fields]
    if not all(name in stored for name in names):
        return inner
    everywhere = abstract.step.sharding
    recent: list[Any] = [
        jax.ShapeDtypeStruct(stored[name].shape, stored[name].dtype, sharding=everywhere)
        for name in names
    ]
    return SpikeState(inner, Recent(*recent))


def _as_wanted(state: Any, abstract: Any) -> Any:
    """The optimizer state with as much of recent steps as `abstract` has."""
    inner, recent = state if isinstance(state, SpikeState) else (state, None)
    if not isinstance(abstract, SpikeState):
        return inner
    if recent is None or recent.losses.shape != abstract.recent.losses.shape:
        recent = jax.tree.map(_zeros, abstract.recent)
    return SpikeState(inner, recent)


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    zeros = np.zeros(leaf.shape, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: zeros[index])
