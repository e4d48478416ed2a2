"""Optimizer state in bfloat16, which takes half the memory.

An average with decay 0.999 changes by less than bfloat16 can show: rounded to nearest, it would
stop moving. So each step rounds up or down at random, such that the expected value is exact; the
random numbers are a function of the step and the array's place in the state.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from llmjax.parallel import mesh

MomentDtype = Literal["float32", "bfloat16"]

SEED = 0
"""Of the rounding; folded with the step, and with the index of the array."""


def narrow(state: optax.OptState, step: jax.Array | None = None) -> optax.OptState:
    """The state with its float32 arrays, but not its scalars, rounded to bfloat16.

    Args:
      state: any tree of arrays.
      step: int32 [], for stochastic rounding; None: to nearest.
    """
    leaves, structure = jax.tree.flatten(state)
    for index, leaf in enumerate(leaves):
        if leaf.dtype == jnp.float32 and leaf.ndim:
            leaves[index] = _round(leaf, step, index)
    return jax.tree.unflatten(structure, leaves)


def widen(state: optax.OptState) -> optax.OptState:
    """The state with its bfloat16 arrays as float32."""

    def wide(leaf: jax.Array) -> jax.Array:
        return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf

    return jax.tree.map(wide, state)


def _round(x: jax.Array, step: jax.Array | None, index: int) -> jax.Array:
    """Adds random bits below the last one that bfloat16 keeps, and then truncates."""
    nearest = x.astype(jnp.bfloat16)
    if step is None:
        return nearest
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), step), index)
    noise = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=mesh.spec_of(x))
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise.astype(jnp.uint32)
    high = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x) & jnp.isfinite(high), high, nearest)
