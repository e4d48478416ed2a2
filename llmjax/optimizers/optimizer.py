"""From an optimizer's config to its pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.optimizers.config import (
    AdafactorConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    SgdConfig,
)
from llmjax.optimizers.matrices import Kind, Tree, clip_by_rms, decays, kinds
from llmjax.optimizers.muon import orthogonalize
from llmjax.optimizers.schedules import learning_rate


@dataclass(frozen=True)
class Optimizer:
    """Pure functions of parameter trees; states are float32 and sharded as their parameters."""

    init: Callable[[Tree], optax.OptState]
    """params -> state."""
    apply: Callable[[Tree, Tree, optax.OptState, jax.Array], tuple[Tree, optax.OptState]]
    """(params, gradients, state, step int32 []) -> (params, state); gradients come clipped."""
    learning_rate: optax.Schedule
    """step -> float32 []; by the run's step, so skipped updates do not delay it."""
    masked: Callable[[Tree], Tree]
    """gradients -> the same, 0 for the layers of a stack that do not learn."""


def make_optimizer(
    config: OptimizerConfig, steps: int, logical_axes: Tree, shares: Tree | None = None
) -> Optimizer:
    """Builds the optimizer of a run of `steps` steps.

    Args:
      config: which one, and its values.
      steps: the run's length, for the schedule.
      logical_axes: the parameters' tree with each leaf's logical axes (`Model.logical_axes()`):
        they tell matrices from embeddings, norms and biases.
      shares: what each parameter's learning rate is multiplied with, a tree of arrays that
        broadcast (see `tune.shares`); None: 1.
    """
    schedule = learning_rate(config, steps)
    mask = decays(logical_axes, config.decay_embeddings)
    chain = optax.chain(
        _direction(config, logical_axes), optax.add_decayed_weights(config.weight_decay, mask)
    )

    def apply(
        params: Tree, gradients: Tree, state: optax.OptState, step: jax.Array
    ) -> tuple[Tree, optax.OptState]:
        updates, state = chain.update(gradients, state, params)
        rate = schedule(step)
        if shares is not None:
            updates = jax.tree.map(jnp.multiply, updates, shares)
        return jax.tree.map(lambda param, update: param - rate * update, params, updates), state

    def masked(gradients: Tree) -> Tree:
        return gradients if shares is None else jax.tree.map(_where_learning, gradients, shares)

    return Optimizer(chain.init, apply, schedule, masked)


def _where_learning(gradient: jax.Array, share: np.ndarray) -> jax.Array:
    return gradient if np.all(share) else gradient * (share > 0).astype(np.float32)


@singledispatch
def _direction(config: Any, logical_axes: Tree) -> optax.GradientTransformation:
    """Gradients -> what the learning rate multiplies, before decay."""
    raise TypeError(f"no optimizer for {type(config).__name__}")


@_direction.register
def _(config: AdamWConfig, logical_axes: Tree) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)


@_direction.register
def _(config: AdafactorConfig, logical_axes: Tree) -> optax.GradientTransformation:
    factored = optax.scale_by_factored_rms(
        decay_rate=config.decay_rate, min_dim_size_to_factor=config.min_factored_size
    )
    mean = optax.identity() if config.beta1 is None else optax.ema(config.beta1, debias=False)
    return optax.chain(factored, clip_by_rms(config.clip_rms, logical_axes), mean)


@_direction.register
def _(config: LionConfig, logical_axes: Tree) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.beta1, config.beta2)


@_direction.register
def _(config: MuonConfig, logical_axes: Tree) -> optax.GradientTransformation:
    by_matrix = optax.chain(
        optax.trace(config.momentum, nesterov=True),
        orthogonalize(config.newton_schulz_steps, config.update_rms, logical_axes),
    )
    rest = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    transforms = {Kind.MATRIX: by_matrix, Kind.EMBEDDING: rest, Kind.VECTOR: rest}
    return optax.partition(transforms, kinds(logical_axes))


@_direction.register
def _(config: SgdConfig, logical_axes: Tree) -> optax.GradientTransformation:
    if config.momentum == 0:
        return optax.identity()
    return optax.trace(config.momentum, nesterov=config.nesterov)
