"""What a parameter is to an optimizer, read from its logical axes; and clipping by matrix.

Layers are stacked along a leading axis; what is defined for one matrix is done for each of them.
"""

from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
import optax

Axes = tuple[str | None, ...]
Tree = dict[str, Any]


class Kind(StrEnum):
    """How an optimizer sees a parameter."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    VECTOR = "vector"


def kind(axes: Axes) -> Kind:
    """A map into or out of the residual stream, a table of rows, or else a norm's scale or a bias.

    A bias of heads has two axes, heads and head_dim, but not the residual stream's.
    """
    inner = [axis for axis in axes if axis != "layers"]
    if len(inner) < 2:
        return Kind.VECTOR
    if "vocab" in inner or "positions" in inner:
        return Kind.EMBEDDING
    return Kind.MATRIX if "embed" in inner else Kind.VECTOR


def kinds(logical_axes: Tree) -> Tree:
    """The tree of `kind`s of a tree of logical axes."""
    return jax.tree.map(kind, logical_axes, is_leaf=lambda axes: isinstance(axes, tuple))


def decays(logical_axes: Tree, embeddings: bool) -> Tree:
    """The tree of bools: does weight decay touch this parameter?"""
    chosen = {Kind.MATRIX, Kind.EMBEDDING} if embeddings else {Kind.MATRIX}
    return jax.tree.map(lambda kind: kind in chosen, kinds(logical_axes))


def clip_by_rms(limit: float, logical_axes: Tree) -> optax.GradientTransformation:
    """Scales each layer's update down to root mean square `limit` (arXiv:1804.04235, section 6)."""

    def clip(update: jax.Array, axes: Axes) -> jax.Array:
        inner = tuple(i for i, axis in enumerate(axes) if axis != "layers")
        rms = jnp.sqrt(jnp.mean(jnp.square(update), axis=inner, keepdims=True))
        return update / jnp.maximum(1.0, rms / limit)

    return optax.stateless(lambda updates, params: jax.tree.map(clip, updates, logical_axes))
