"""Optimizer state in bfloat16 or int8, which takes half or a quarter of the memory.

An average with decay 0.999 changes by less than a narrow type can show: rounded to nearest, it
would stop moving. So each step rounds up or down at random, such that the expected value is exact;
the random numbers are a function of the step and the array's place in the state.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from llmjax.optimizers.blockwise import Blockwise, encode
from llmjax.parallel import mesh

MomentDtype = Literal["float32", "bfloat16", "int8"]

SEED = 0
"""Of the rounding; folded with the step, and with the index of the array."""


def narrow(
    state: optax.OptState, dtype: MomentDtype, step: jax.Array | None = None
) -> optax.OptState:
    """The state with its float32 arrays, but not its scalars, rounded.

    In int8, what has no blocks (see `block_size`) stays float32.

    Args:
      state: any tree of arrays.
      dtype: what to round to; float32: nothing is.
      step: int32 [], for stochastic rounding; None: to nearest.
    """
    if dtype == "float32":
        return state
    leaves, structure = jax.tree.flatten_with_path(state)
    rounded = []
    for index, (path, leaf) in enumerate(leaves):
        if leaf.dtype != jnp.float32 or not leaf.ndim:
            rounded.append(leaf)
        elif dtype == "bfloat16":
            rounded.append(_round(leaf, _key(step, index)))
        else:
            rounded.append(encode(leaf, _is_square(path), _key(step, index)))
    return jax.tree.unflatten(structure, rounded)


def widen(state: optax.OptState) -> optax.OptState:
    """The state with its narrow arrays as float32."""
    return jax.tree.map(_wide, state, is_leaf=is_blockwise)


def is_blockwise(node: Any) -> bool:
    """Whether a node of a state is an array in int8."""
    return isinstance(node, Blockwise)


def converted(moment: Any, wanted: Any) -> Any:
    """A moment as the state that is `wanted` has it there: rounded to nearest.

    Args:
      moment: an array or `Blockwise`.
      wanted: the same with shapes and dtypes in place of arrays.
    """
    if not is_blockwise(wanted):
        return _wide(moment).astype(wanted.dtype) if is_blockwise(moment) else moment
    if is_blockwise(moment) and moment.scale.shape == wanted.scale.shape:
        return moment
    return encode(_wide(moment), wanted.is_square)


def _wide(leaf: Any) -> jax.Array:
    if is_blockwise(leaf):
        return leaf.decode()
    return leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf


def _is_square(path: tuple[Any, ...]) -> bool:
    """Whether a place in a state is that of second moments, which Optax calls nu."""
    return any(isinstance(key, jax.tree_util.GetAttrKey) and key.name == "nu" for key in path)


def _key(step: jax.Array | None, index: int) -> jax.Array | None:
    if step is None:
        return None
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), step), index)


def _round(x: jax.Array, key: jax.Array | None) -> jax.Array:
    """Adds random bits below the last one that bfloat16 keeps, and then truncates."""
    nearest = x.astype(jnp.bfloat16)
    if key is None:
        return nearest
    noise = jax.random.bits(key, x.shape, jnp.uint16, out_sharding=mesh.spec_of(x))
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise.astype(jnp.uint32)
    high = jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)
    return jnp.where(jnp.isfinite(x) & jnp.isfinite(high), high, nearest)
