"""The item training/ of a checkpoint: the step and the optimizer state, by path.

What `optimizers.spikes` remembers of the recent steps is restored if the config still asks for as
much. Otherwise it is dropped, or begins empty, so that a resumed run may start or stop looking for
spikes. Moments are converted to the dtype that the config asks for, and to the mesh's blocks.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from llmjax.optimizers.blockwise import Blockwise
from llmjax.optimizers.moments import converted, is_blockwise
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
    """The abstract optimizer state, with what the checkpoint holds of recent steps, and with blocks
    where it has moments in int8."""
    state = abstract.opt_state
    inner = state.inner if isinstance(state, SpikeState) else state
    stored = stored_items(checkpoint, "training")
    names = [f".recent.{field}" for field in Recent._fields]
    remembers = all(name in stored for name in names)
    prefix = ".inner" if remembers else ""

    def as_stored(path: tuple[Any, ...], leaf: Any) -> Any:
        return _moment_as_stored(prefix + jax.tree_util.keystr(path), leaf, stored)

    inner = jax.tree.map_with_path(as_stored, inner, is_leaf=is_blockwise)
    if not remembers:
        return inner
    everywhere = abstract.step.sharding
    recent: list[Any] = [
        jax.ShapeDtypeStruct(stored[name].shape, stored[name].dtype, sharding=everywhere)
        for name in names
    ]
    return SpikeState(inner, Recent(*recent))


def _moment_as_stored(name: str, leaf: Any, stored: dict[str, jax.ShapeDtypeStruct]) -> Any:
    """A leaf of the abstract state as the checkpoint has it: an array, or one in blocks."""
    whole = leaf.values if is_blockwise(leaf) else leaf
    values, scale = (stored.get(f"{name}.{part}") for part in ("values", "scale"))
    if values is None or scale is None:
        dtype = np.float32 if is_blockwise(leaf) else leaf.dtype
        return jax.ShapeDtypeStruct(whole.shape, dtype, sharding=whole.sharding)
    if is_blockwise(leaf) and leaf.scale.shape == scale.shape:
        return leaf
    # Blocks of another mesh may not divide over this one.
    spec = PartitionSpec(*whole.sharding.spec[: len(scale.shape) - 1])
    sharding = NamedSharding(whole.sharding.mesh, spec)
    blocks: Any = (
        jax.ShapeDtypeStruct(whole.shape, values.dtype, sharding=whole.sharding),
        jax.ShapeDtypeStruct(scale.shape, scale.dtype, sharding=sharding),
    )
    return Blockwise(*blocks)


def _as_wanted(state: Any, abstract: Any) -> Any:
    """The optimizer state with as much of recent steps as `abstract` has, and its moments."""
    inner, recent = state if isinstance(state, SpikeState) else (state, None)
    is_remembered = isinstance(abstract, SpikeState)
    inner = _converted(inner, abstract.inner if is_remembered else abstract)
    if not is_remembered:
        return inner
    if recent is None or recent.losses.shape != abstract.recent.losses.shape:
        recent = jax.tree.map(_zeros, abstract.recent)
    return SpikeState(inner, recent)


def _converted(state: Any, abstract: Any) -> Any:
    """The moments of a state as `abstract` has them; what is the same is not copied."""
    wanted, structure = jax.tree.flatten(abstract, is_leaf=is_blockwise)
    read = jax.tree.leaves(state, is_leaf=is_blockwise)
    differ = [i for i, leaf in enumerate(wanted) if _layout(read[i]) != _layout(leaf)]
    if differ:

        @jax.jit
        def convert(moments: list[Any]) -> list[Any]:
            return [converted(moment, wanted[i]) for i, moment in zip(differ, moments, strict=True)]

        with jax.set_mesh(jax.tree.leaves(abstract)[0].sharding.mesh):
            new = convert([read[i] for i in differ])
        for i, moment in zip(differ, new, strict=True):
            read[i] = moment
    return jax.tree.unflatten(structure, read)


def _layout(moment: Any) -> list[tuple[tuple[int, ...], np.dtype]]:
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(moment)]


def _zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    zeros = np.zeros(leaf.shape, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: zeros[index])
