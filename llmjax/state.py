"""The train state: step, parameters and optimizer state, created sharded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.optimizers.optimizer import Optimizer

Tree = dict[str, Any]


class Parametrized(Protocol):
    """A model, or a model with heads."""

    def init(self, key: jax.Array) -> Tree:
        """Initializes the parameters."""

    def abstract_params(self) -> Tree:
        """Returns their shapes and dtypes, with shardings where a mesh is set."""

    def logical_axes(self) -> Tree:
        """Returns their logical axes."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A pytree, in float32 except for the step and the optimizer's counters."""

    step: jax.Array
    """int32 []: steps taken, including skipped ones."""
    params: Tree
    """The trained parameters, sharded by their logical axes."""
    opt_state: Any
    """Optax state; moments are sharded like their parameters."""


def init_state(model: Parametrized, optimizer: Optimizer, key: jax.Array) -> TrainState:
    """Creates the state of step 0 (pure; run it inside `jax.jit`)."""
    params = model.init(key)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def make_state(model: Parametrized, optimizer: Optimizer, seed: int, mesh: Mesh) -> TrainState:
    """Creates the state of step 0 on `mesh`; sharded arrays never exist unsharded.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    with jax.set_mesh(mesh):
        return jax.jit(init_state, static_argnums=(0, 1))(model, optimizer, jax.random.key(seed))


def state_of(optimizer: Optimizer, params: Tree, mesh: Mesh) -> TrainState:
    """Creates the state of step 0 from existing parameters, whose arrays are donated."""

    def create(params: Tree) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    with jax.set_mesh(mesh):
        return jax.jit(create, donate_argnums=0)(params)


def abstract_state(
    model: Parametrized, optimizer: Optimizer, mesh: Mesh, trainable: Tree | None = None
) -> TrainState:
    """Shapes, dtypes and shardings of the state on `mesh`, for restoring it.

    Args:
      model: has the parameters.
      optimizer: its optimizer.
      mesh: the devices.
      trainable: tree of bools, whether a parameter is trained; None: all are.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """

    def create() -> TrainState:
        params = model.init(jax.random.key(0))
        params = params if trainable is None else split(params, trainable)[0]
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    with jax.set_mesh(mesh):
        state = jax.eval_shape(create)
    return jax.tree.map(lambda leaf: _on(mesh, leaf), state)


def split(tree: Tree, mask: Tree) -> tuple[Tree, Tree]:
    """Splits a tree of dicts into the leaves where `mask` is true and the rest.

    Args:
      tree: with any leaves; branches that would be empty are left out.
      mask: the same tree with bools as leaves.
    """
    selected: Tree = {}
    rest: Tree = {}
    for name, value in tree.items():
        if isinstance(mask[name], Mapping):
            parts = split(value, mask[name])
        else:
            parts = (value, {}) if mask[name] else ({}, value)
        for side, part in zip((selected, rest), parts, strict=True):
            if not (isinstance(part, Mapping) and not part):
                side[name] = part
    return selected, rest


def join(a: Tree, b: Tree) -> Tree:
    """Merges the two trees of `split`."""
    merged = dict(a)
    for name, value in b.items():
        both = name in merged and isinstance(value, Mapping)
        merged[name] = join(merged[name], value) if both else value
    return merged


def _on(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Replaces the abstract mesh of tracing by the devices, which restoring needs."""
    spec = getattr(leaf.sharding, "spec", PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
