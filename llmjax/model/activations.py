"""Nonlinearities of MLPs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.config import Activation, ModelConfig

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
}


class Nonlinearity(NamedTuple):
    """What an MLP computes between its products."""

    activation: Activation
    limit: float | None
    """See `ModelConfig.activation_limit`."""
    up_offset: float

    def apply(self, up: jax.Array, gate: jax.Array | None) -> jax.Array:
        """activation(gate) * (up + offset), or activation(up) without gate, in float32.

        Args:
          up: [..., F], of any float dtype.
          gate: [..., F], or None if the MLP is not gated.
        """
        activation, wide = ACTIVATIONS[self.activation], up.astype(jnp.float32)
        if gate is None:
            return activation(self._clamped(wide))
        if self.limit is not None:
            wide = jnp.clip(wide, -self.limit, self.limit)
        return activation(self._clamped(gate.astype(jnp.float32))) * (wide + self.up_offset)

    def _clamped(self, x: jax.Array) -> jax.Array:
        return x if self.limit is None else jnp.minimum(x, self.limit)


def nonlinearity(config: ModelConfig) -> Nonlinearity:
    """That of a model's MLPs."""
    return Nonlinearity(config.activation, config.activation_limit, config.up_offset)
