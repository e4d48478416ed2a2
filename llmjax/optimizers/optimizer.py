"""Builds an optimizer's pure functions from its config."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.optimizers import moments
from llmjax.optimizers.config import OptimizerConfig, Tree
from llmjax.optimizers.param_kinds import decay_mask


@dataclass(frozen=True)
class Optimizer:
    """Pure functions of parameter trees.

    States are float32, or the config's `moment_dtype`, and sharded like the parameters.
    """

    init: Callable[[Tree], optax.OptState]
    """params -> state."""
    apply: Callable[[Tree, Tree, optax.OptState, jax.Array], tuple[Tree, optax.OptState]]
    """(params, clipped gradients, state, step int32 []) -> (params, state)."""
    learning_rate: optax.Schedule
    """step -> float32 []; counts the run's steps, including skipped updates."""
    masked: Callable[[Tree], Tree]
    """gradients -> gradients, zeroed for the layers of a stack that are not trained."""
    admit: Callable[[optax.OptState, jax.Array, jax.Array], tuple[jax.Array, optax.OptState]]
    """(state, loss, gradient norm before clipping) -> (bool [], whether the update is applied;
    state, which stays so even if it is not)."""


def make_optimizer(
    config: OptimizerConfig, steps: int, logical_axes: Tree, lr_multipliers: Tree | None = None
) -> Optimizer:
    """Builds the optimizer of a run of `steps` steps.

    Args:
      config: the optimizer's config.
      steps: length of the run, for the schedule.
      logical_axes: tree of the parameters' logical axes (`Model.logical_axes()`), which
        distinguish matrices from embeddings, norms and biases.
      lr_multipliers: factor of each parameter's learning rate, a tree of broadcastable arrays
        (see `trainable.lr_multipliers`); None: 1.
    """
    schedule = learning_rate(config, steps)
    mask = decay_mask(logical_axes, config.decay_embeddings)
    chain = optax.chain(
        config.direction(logical_axes), optax.add_decayed_weights(config.weight_decay, mask)
    )

    is_narrow = config.moment_dtype == "bfloat16"

    def init(params: Tree) -> optax.OptState:
        return moments.narrow(chain.init(params)) if is_narrow else chain.init(params)

    def apply(
        params: Tree, gradients: Tree, state: optax.OptState, step: jax.Array
    ) -> tuple[Tree, optax.OptState]:
        updates, state = chain.update(gradients, moments.widen(state), params)
        state = moments.narrow(state, step) if is_narrow else state
        rate = schedule(step)
        if lr_multipliers is not None:
            updates = jax.tree.map(jnp.multiply, updates, lr_multipliers)
        return jax.tree.map(lambda param, update: param - rate * update, params, updates), state

    def masked(gradients: Tree) -> Tree:
        if lr_multipliers is None:
            return gradients
        return jax.tree.map(_where_trained, gradients, lr_multipliers)

    return Optimizer(init, apply, schedule, masked, _admit_finite)


def _admit_finite(
    state: optax.OptState, loss: jax.Array, norm: jax.Array
) -> tuple[jax.Array, optax.OptState]:
    return jnp.isfinite(loss) & jnp.isfinite(norm), state


def _where_trained(gradient: jax.Array, multiplier: np.ndarray) -> jax.Array:
    return gradient if np.all(multiplier) else gradient * (multiplier > 0).astype(np.float32)


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the schedule of a run of `steps` steps: int or int32 [] from 0 -> float32 [].

    Step i of a warmup of w steps has (i + 1) / (w + 1) of the peak; step `steps`, the first one
    after the run, would have `final_fraction` of it.
    """
    schedule, peak = config.schedule, config.learning_rate
    warmup, final = schedule.warmup_steps, schedule.final_fraction * config.learning_rate
    rest = max(steps - warmup, 1)
    shapes: dict[str, tuple[optax.Schedule, ...]] = {
        "constant": (optax.constant_schedule(peak),),
        "cosine": (optax.cosine_decay_schedule(peak, rest, alpha=schedule.final_fraction),),
        "linear": (optax.linear_schedule(peak, final, rest),),
    }
    boundaries = [warmup]
    if schedule.shape == "wsd":
        decay = max(round(schedule.decay_fraction * steps), 1)
        boundaries.append(max(steps - decay, warmup))
        shapes["wsd"] = (optax.constant_schedule(peak), optax.linear_schedule(peak, final, decay))
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules((rise, *shapes[schedule.shape]), boundaries)
