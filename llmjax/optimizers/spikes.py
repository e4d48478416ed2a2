"""Skips the updates of loss spikes.

The rule is that of OLMo-core's SkipStepOptimizer (github.com/allenai/OLMo-core): an update is
skipped if its loss or its gradient norm exceeds the mean of the recent ones by more than so many
standard deviations. Skipped ones count as recent too, so that a lasting change is accepted after a
few steps. PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1) instead went back to a
checkpoint and left out the batches around a spike: `training.roll_back` does that.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llmjax.optimizers.config import Tree
from llmjax.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class SpikesConfig:
    """Which updates are loss spikes, and what happens after one."""

    factor: float = 0.0
    """An update is skipped if its loss or gradient norm exceeds the mean of the recent ones by more
    than this many standard deviations; 6 is usual. 0: never."""
    recent: int = 128
    """How many steps count as recent; nothing is skipped in the first half of as many."""
    action: Literal["skip", "roll_back"] = "skip"
    """skip: only that update is left out. roll_back: the run returns to its newest checkpoint, and
    leaves out the batches from there to the spike."""
    max_roll_backs: int = 10
    """How often a run may roll back; after another spike it stops with an error."""


def spikes_problems(config: SpikesConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each."""
    checks = {
        f"factor: {config.factor} is negative": config.factor >= 0,
        f"recent: {config.recent} is less than 4": config.recent >= 4,
        f"max_roll_backs: {config.max_roll_backs} is not positive": config.max_roll_backs > 0,
        "action: roll_back needs spikes.factor, which says what a spike is; 6 is usual": (
            config.action == "skip" or config.factor != 0
        ),
    }
    return [f"spikes.{problem}" for problem, holds in checks.items() if not holds]


class Recent(NamedTuple):
    """The last finite losses and gradient norms: ring buffers float32 [recent]."""

    losses: jax.Array
    norms: jax.Array
    seen: jax.Array
    """int32 []: how many there have been so far."""


class SpikeState(NamedTuple):
    """The optimizer's own state, and what came before."""

    inner: optax.OptState
    recent: Recent


def skip_spikes(optimizer: Optimizer, config: SpikesConfig) -> Optimizer:
    """The optimizer, skipping the updates of spikes; the optimizer itself if the factor is 0."""
    if not config.factor:
        return optimizer

    def init(params: Tree) -> SpikeState:
        empty = jnp.zeros(config.recent, jnp.float32)
        return SpikeState(optimizer.init(params), Recent(empty, empty, jnp.int32(0)))

    def apply(
        params: Tree, gradients: Tree, state: SpikeState, step: jax.Array
    ) -> tuple[Tree, SpikeState]:
        params, inner = optimizer.apply(params, gradients, state.inner, step)
        return params, SpikeState(inner, state.recent)

    def admit(state: SpikeState, loss: jax.Array, norm: jax.Array) -> tuple[jax.Array, SpikeState]:
        recent = state.recent
        is_finite, inner = optimizer.admit(state.inner, loss, norm)
        is_spike = _exceeds(loss, recent.losses, recent.seen, config.factor)
        is_spike |= _exceeds(norm, recent.norms, recent.seen, config.factor)
        here = (jnp.arange(config.recent) == recent.seen % config.recent) & is_finite
        added = Recent(
            jnp.where(here, loss, recent.losses),
            jnp.where(here, norm, recent.norms),
            recent.seen + is_finite.astype(jnp.int32),
        )
        return is_finite & ~is_spike, SpikeState(inner, added)

    return replace(optimizer, init=init, apply=apply, admit=admit)


def _exceeds(value: jax.Array, ring: jax.Array, count: jax.Array, factor: float) -> jax.Array:
    """Whether a value exceeds the mean of those in the ring by `factor` standard deviations."""
    valid = (jnp.arange(ring.size) < count).astype(jnp.float32)
    number = jnp.maximum(jnp.sum(valid), 2)
    mean = jnp.sum(ring * valid) / number
    variance = jnp.sum(jnp.square(ring - mean) * valid) / (number - 1)
    return (count >= ring.size // 2) & (value > mean + factor * jnp.sqrt(variance))
