"""Optimizers from Optax: AdamW, Adafactor, Lion, SGD."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import optax

from llmjax.optimizers.config import OptimizerConfig, Tree
from llmjax.optimizers.param_kinds import STACKED
from llmjax.parallel.mesh import Axes


@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """AdamW (arXiv:1711.05101)."""

    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    epsilon: float = 1e-8
    """Added to the square root of the second moment."""
    kind: Literal["adamw"] = "adamw"

    FRACTIONS: ClassVar = ("beta1", "beta2")
    POSITIVE: ClassVar = ("epsilon",)
    EIGHT_BIT: ClassVar = True

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)


@dataclass(frozen=True)
class AdafactorConfig(OptimizerConfig):
    """Adafactor (arXiv:1804.04235): factored second moments, a row and a column for each matrix.

    Updates are not scaled by parameter norms, so learning rates are those of AdamW.
    """

    beta1: float | None = None
    """Decay of the first moment; None: none is kept, which saves memory."""
    decay_rate: float = 0.8
    """Exponent of the second moment's decay, 1 - step^-this."""
    clip_rms: float = 1.0
    """Maximum root mean square of a matrix's update, which is scaled down to it."""
    min_factored_size: int = 128
    """Matrices with a smaller side keep unfactored second moments."""
    kind: Literal["adafactor"] = "adafactor"

    FRACTIONS: ClassVar = ("beta1",)
    POSITIVE: ClassVar = ("decay_rate", "clip_rms")

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        factored = optax.scale_by_factored_rms(
            decay_rate=self.decay_rate, min_dim_size_to_factor=self.min_factored_size
        )
        mean = optax.identity() if self.beta1 is None else optax.ema(self.beta1, debias=False)
        return optax.chain(factored, clip_by_rms(self.clip_rms, logical_axes), mean)


@dataclass(frozen=True)
class LionConfig(OptimizerConfig):
    """Lion (arXiv:2302.06675): sign of the momentum. Use a learning rate 3 to 10 times smaller, and
    a weight decay as much larger, than for AdamW."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 1.0
    """Decoupled weight decay, as for AdamW."""
    beta1: float = 0.9
    """Weight of the momentum in the update."""
    beta2: float = 0.99
    """Decay of the momentum."""
    kind: Literal["lion"] = "lion"

    FRACTIONS: ClassVar = ("beta1", "beta2")
    EIGHT_BIT: ClassVar = True

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta1, self.beta2)


@dataclass(frozen=True)
class SgdConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    learning_rate: float = 0.1
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay, as for AdamW."""
    momentum: float = 0.9
    """Decay of the momentum; 0: none."""
    nesterov: bool = False
    """Whether to use Nesterov momentum."""
    kind: Literal["sgd"] = "sgd"

    FRACTIONS: ClassVar = ("momentum",)
    EIGHT_BIT: ClassVar = True

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        if self.momentum == 0:
            return optax.identity()
        return optax.trace(self.momentum, nesterov=self.nesterov)


def clip_by_rms(limit: float, logical_axes: Tree) -> optax.GradientTransformation:
    """Scales each layer's update down to root mean square `limit` (arXiv:1804.04235, section 6).

    `optax.clip_by_block_rms` would treat a stack of layers, or of experts, as one block.
    """

    def clip(update: jax.Array, axes: Axes) -> jax.Array:
        inner = tuple(i for i, axis in enumerate(axes) if axis not in STACKED)
        rms = jnp.sqrt(jnp.mean(jnp.square(update), axis=inner, keepdims=True))
        return update / jnp.maximum(1.0, rms / limit)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates, logical_axes))
