"""What training changes: the step, the parameters and the optimizer's state; sharded from birth."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax import mesh as meshes
from llmjax.model import Model
from llmjax.optimizers import Optimizer


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A pytree; float32 but for the step and the optimizer's counters."""

    step: jax.Array
    """int32 []: steps taken, those skipped included."""
    params: dict[str, Any]
    """Parameters, laid out by their logical axes."""
    opt_state: Any
    """Optax state; moments are laid out as their parameters."""


def init_state(model: Model, optimizer: Optimizer, key: jax.Array) -> TrainState:
    """Step 0 (pure; run it inside `jax.jit`)."""
    params = model.init(key)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def make_state(model: Model, optimizer: Optimizer, seed: int, mesh: Mesh | None) -> TrainState:
    """Step 0 on the devices of `mesh`: no array ever exists whole where it is to be split.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    if mesh is None:
        return jax.jit(init_state, static_argnums=(0, 1))(model, optimizer, jax.random.key(seed))
    check_mesh(model, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(init_state, static_argnums=(0, 1))(model, optimizer, jax.random.key(seed))


def abstract_state(model: Model, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings on `mesh` of the state, for restoring it; computes nothing.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    check_mesh(model, mesh)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
    return jax.tree.map(lambda leaf: _on(mesh, leaf), state)


def check_mesh(model: Model, mesh: Mesh) -> None:
    """Checks that every parameter divides over `mesh`.

    Raises:
      UserError: one does not; it names the tensor, the dimension and the mesh axes.
    """
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    axes = model.logical_axes()
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = "/".join(str(key.key) for key in path)
        names = axes
        for key in path:
            names = names[key.key]
        meshes.check_divides(name, leaf.shape, names, mesh)


def _on(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A restore target wants a concrete mesh; tracing knows an abstract one."""
    spec = getattr(leaf.sharding, "spec", PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
