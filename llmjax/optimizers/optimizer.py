"""Builds an optimizer's pure functions from its config."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llmjax.model.trees import flatten, unflatten
from llmjax.optimizers import moments
from llmjax.optimizers.config import OptimizerConfig, Tree
from llmjax.optimizers.param_kinds import ParamKind, decay_mask, param_kinds
from llmjax.optimizers.parametrization import Scale, scaled


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
    gradient_norm: Callable[[Tree], jax.Array]
    """gradients -> their global 2-norm, float32 [], without those of selection biases."""
    masked: Callable[[Tree], Tree]
    """gradients -> gradients, zeroed for the layers of a stack that are not trained."""
    admit: Callable[[optax.OptState, jax.Array, jax.Array], tuple[jax.Array, optax.OptState]]
    """(state, loss, gradient norm before clipping) -> (bool [], whether the update is applied;
    state, which stays so even if it is not)."""


def make_optimizer(
    config: OptimizerConfig,
    steps: int,
    logical_axes: Tree,
    lr_multipliers: Tree | None = None,
    *,
    bias_update_rate: float = 0.0,
    scales: Mapping[str, Scale] | None = None,
) -> Optimizer:
    """Builds the optimizer of a run of `steps` steps.

    Args:
      config: the optimizer's config.
      steps: length of the run, for the schedule.
      logical_axes: tree of the parameters' logical axes (`Model.logical_axes()`), which
        distinguish matrices from embeddings, norms and biases.
      lr_multipliers: factor of each parameter's learning rate, a tree of broadcastable arrays
        (see `trainable.lr_multipliers`); None: 1.
      bias_update_rate: of selection biases (see `MoEConfig`), which have no other update.
      scales: factors of each parameter by its dotted path (see `parameter_scales`); None: 1.
    """
    schedule = learning_rate(config, steps)
    biases = _selection_biases(logical_axes)
    axes = _without(biases, logical_axes)
    mask = decay_mask(axes, config.decay_embeddings)
    direction = config.direction(axes)
    if scales is not None:
        direction = optax.chain(
            _scale_by({path: 1 / scale.epsilon for path, scale in scales.items()}),
            direction,
            _scale_by({path: scale.rate for path, scale in scales.items()}),
        )
    chain = optax.chain(direction, optax.add_decayed_weights(config.weight_decay, mask))

    def init(params: Tree) -> optax.OptState:
        params = _without(biases, params)
        return moments.narrow(chain.init(params), config.moment_dtype)

    def apply(
        params: Tree, gradients: Tree, state: optax.OptState, step: jax.Array
    ) -> tuple[Tree, optax.OptState]:
        balanced = {
            path: _balanced(param, gradient, bias_update_rate)
            for path, param, gradient in _pairs(biases, params, gradients)
        }
        params, gradients = _without(biases, params), _without(biases, gradients)
        updates, state = chain.update(gradients, moments.widen(state), params)
        state = moments.narrow(state, config.moment_dtype, step)
        rate = schedule(step)
        if lr_multipliers is not None:
            updates = jax.tree.map(jnp.multiply, updates, _without(biases, lr_multipliers))
        params = jax.tree.map(lambda param, update: param - rate * update, params, updates)
        return (unflatten({**dict(flatten(params)), **balanced}) if biases else params), state

    def masked(gradients: Tree) -> Tree:
        if lr_multipliers is None:
            return gradients
        return jax.tree.map(_where_trained, gradients, lr_multipliers)

    def gradient_norm(gradients: Tree) -> jax.Array:
        return optax.global_norm(_without(biases, gradients))

    return Optimizer(init, apply, schedule, gradient_norm, masked, _admit_finite)


def _scale_by(factors: Mapping[str, float]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: scaled(updates, factors))


def _selection_biases(logical_axes: Tree) -> frozenset[str]:
    """The dotted paths of selection biases."""
    kinds = flatten(param_kinds(logical_axes))
    return frozenset(path for path, kind in kinds if kind == ParamKind.SELECTION_BIAS)


def _without(paths: frozenset[str], tree: Tree) -> Tree:
    if not paths:
        return tree
    return unflatten({path: leaf for path, leaf in flatten(tree) if path not in paths})


def _pairs(
    paths: frozenset[str], params: Tree, gradients: Tree
) -> Iterator[tuple[str, jax.Array, jax.Array]]:
    """Path, parameter and gradient of each of these."""
    if paths:
        found = dict(flatten(gradients))
        yield from ((path, leaf, found[path]) for path, leaf in flatten(params) if path in paths)


def _balanced(bias: jax.Array, overload: jax.Array, rate: float) -> jax.Array:
    """Lowers the bias of overloaded experts, and raises that of the others.

    See arXiv:2408.15664, algorithm 1.
    """
    return bias - rate * jnp.sign(overload)


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
