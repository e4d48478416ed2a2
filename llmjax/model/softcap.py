"""Soft-capping of scores and logits (Gemma 2, arXiv:2408.00118, section 2)."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
    """Returns cap * tanh(x / cap); x itself where there is no cap."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def soft_cap_gradient(gradient: jax.Array, capped: jax.Array, cap: float | None) -> jax.Array:
    """Returns the gradient by x, given that by `capped`, which is soft_cap(x, cap)."""
    return gradient if cap is None else gradient * (1.0 - jnp.square(capped / cap))
