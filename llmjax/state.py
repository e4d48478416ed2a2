"""What training changes: the step, the parameters and the optimizer's state; sharded from birth."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def make_state(model: Model, optimizer: Optimizer, seed: int, mesh: Mesh) -> TrainState:
    """Step 0 on the devices of `mesh`: no array ever exists whole where it is to be split.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    with jax.set_mesh(mesh):
        return jax.jit(init_state, static_argnums=(0, 1))(model, optimizer, jax.random.key(seed))


def state_of(optimizer: Optimizer, params: dict[str, Any], mesh: Mesh) -> TrainState:
    """Step 0 of training that begins with these parameters; their arrays are used, not copied."""

    def begin(params: dict[str, Any]) -> TrainState:
        return TrainState(jnp.int32(0), params, optimizer.init(params))

    with jax.set_mesh(mesh):
        return jax.jit(begin, donate_argnums=0)(params)


def abstract_state(model: Model, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings on `mesh` of the state, for restoring it; computes nothing.

    Raises:
      UserError: a parameter's dimension does not divide over the mesh.
    """
    with jax.set_mesh(mesh):
        state = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
    return jax.tree.map(lambda leaf: _on(mesh, leaf), state)


def _on(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Tracing knows an abstract mesh; what is restored needs the devices."""
    spec = getattr(leaf.sharding, "spec", PartitionSpec())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
