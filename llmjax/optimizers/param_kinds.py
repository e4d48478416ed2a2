"""Kinds of parameters that optimizers treat differently, derived from logical axes.

Layers are stacked along a leading axis, and their kind is that of one layer's parameter.
"""

from enum import StrEnum

import jax

from llmjax.optimizers.config import Tree
from llmjax.parallel.mesh import Axes


class ParamKind(StrEnum):
    """A parameter's kind to an optimizer."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    VECTOR = "vector"


def param_kind(axes: Axes) -> ParamKind:
    """Returns the kind: matrices map into or out of the residual stream, embeddings are tables.

    The rest are vectors: norm scales and biases, which may have two axes (heads, head_dim).
    """
    inner = [axis for axis in axes if axis != "layers"]
    if len(inner) < 2:
        return ParamKind.VECTOR
    if "vocab" in inner or "positions" in inner:
        return ParamKind.EMBEDDING
    return ParamKind.MATRIX if "embed" in inner else ParamKind.VECTOR


def param_kinds(logical_axes: Tree) -> Tree:
    """Maps `param_kind` over a tree of logical axes."""
    return jax.tree.map(param_kind, logical_axes, is_leaf=lambda axes: isinstance(axes, tuple))


def decay_mask(logical_axes: Tree, embeddings: bool) -> Tree:
    """Returns a tree of bools: whether weight decay applies to a parameter."""
    decayed = {ParamKind.MATRIX, ParamKind.EMBEDDING} if embeddings else {ParamKind.MATRIX}
    return jax.tree.map(lambda kind: kind in decayed, param_kinds(logical_axes))
