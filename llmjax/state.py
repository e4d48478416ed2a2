"""What training changes: step, parameters and optimizer state, sharded from the start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.optimizers.optimizer import Optimizer

Tree = dict[str, Any]


class Network(Protocol):
    """What has parameters: a model, or a model with heads."""

    def init(self, key: jax.Array) -> Tree:
        """Draws them."""

    def abstract_params(self) -> Tree:
        """Their shapes and dtypes, with shardings where a mesh is set."""

    def logical_axes(self) -> Tree:
        """Their logical axes."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A pytree; float32 but for the step and the optimizer's counters."""

    step: jax.Array
    """int32 []: steps taken, those skipped included."""
    params: Tree
    """The parameters that are trained, laid out by their logical axes."""
    opt_state: Any
    """Optax state; moments are laid out as their parameters."""


def init_state(model: Network, optimizer: Optimizer, key: jax.Array) -> TrainState:
    """Step 0 (pure; run it inside `jax.jit`)."""
    params = model.init(key)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def make_state(model: Network, optimizer: Optimizer, seed: int, mesh: Mesh) -> TrainState:
    """Step 0 on the devices of `mesh`: no array ever exists whole where it is to be split.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    with jax.set_mesh(mesh):
        return jax.jit(init_state, static_argnums=(0, 1))(model, optimizer, jax.random.key(seed))


def state_of(optimizer: Optimizer, params: Tree, mesh: Mesh) -> TrainState:
    """Step 0 of training that begins with these parameters; their arrays are used, not copied."""

    def begin(params: Tree) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    with jax.set_mesh(mesh):
        return jax.jit(begin, donate_argnums=0)(params)


def abstract_state(
    model: Network, optimizer: Optimizer, mesh: Mesh, learning: Tree | None = None
) -> TrainState:
    """Shapes, dtypes and shardings on `mesh` of the state, for restoring it; computes nothing.

    Args:
      model: whose state it is.
      optimizer: its optimizer.
      mesh: the devices.
      learning: the tree of bools that says which parameters are trained; None: all.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """

    def begin() -> TrainState:
        params = model.init(jax.random.key(0))
        params = params if learning is None else split(params, learning)[0]
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    with jax.set_mesh(mesh):
        state = jax.eval_shape(begin)
    return jax.tree.map(lambda leaf: _on(mesh, leaf), state)


def split(tree: Tree, chosen: Tree) -> tuple[Tree, Tree]:
    """The chosen leaves of a tree of dicts, and the others; branches without leaves are left out.

    Args:
      tree: with any leaves.
      chosen: the same tree, of bools.
    """
    ours: Tree = {}
    others: Tree = {}
    for name, value in tree.items():
        if isinstance(chosen[name], Mapping):
            parts = split(value, chosen[name])
        else:
            parts = (value, {}) if chosen[name] else ({}, value)
        for side, part in zip((ours, others), parts, strict=True):
            if not (isinstance(part, Mapping) and not part):
                side[name] = part
    return ours, others


def join(one: Tree, other: Tree) -> Tree:
    """What `split` divided, as one tree again."""
    found = dict(one)
    for name, value in other.items():
        both = name in found and isinstance(value, Mapping)
        found[name] = join(found[name], value) if both else value
    return found


def _on(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Tracing knows an abstract mesh; what is restored needs the devices."""
    spec = getattr(leaf.sharding, "spec", PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
