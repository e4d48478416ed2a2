"""Kinds of parameters that optimizers treat differently, derived from logical axes.

Layers are stacked along a leading axis, and their kind is that of one layer's parameter.
"""

from enum import StrEnum

import jax

from llmjax.optimizers.config import Tree
from llmjax.parallel.mesh import WEIGHT_AXES, Axes

STACKED = ("layers", "experts")
"""Leading axes, along which each parameter is a matrix or vector by itself."""


class ParamKind(StrEnum):
    """A parameter's kind to an optimizer."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    ROUTER = "router"
    SELECTION_BIAS = "selection_bias"
    VECTOR = "vector"


def param_kind(axes: Axes) -> ParamKind:
    """Returns the kind: matrices map into or out of the residual stream, embeddings are tables.

    Routers are matrices that no optimizer treats as one, and their selection biases have no
    gradient (`MoEConfig.selection_bias`). The rest are vectors: norm scales and biases, which may
    have two axes (heads, head_dim).
    """
    inner = [axis for axis in axes if axis != "layers"]
    if "selection" in inner:
        return ParamKind.SELECTION_BIAS
    if "router" in inner and "embed" in inner:
        return ParamKind.ROUTER
    if len(inner) < 2:
        return ParamKind.VECTOR
    if "vocab" in inner or "positions" in inner:
        return ParamKind.EMBEDDING
    return ParamKind.MATRIX if WEIGHT_AXES & set(inner) else ParamKind.VECTOR


def param_kinds(logical_axes: Tree) -> Tree:
    """Maps `param_kind` over a tree of logical axes."""
    return jax.tree.map(param_kind, logical_axes, is_leaf=lambda axes: isinstance(axes, tuple))


def decay_mask(logical_axes: Tree, embeddings: bool) -> Tree:
    """Returns a tree of bools: whether weight decay applies to a parameter."""
    decayed = {ParamKind.MATRIX, ParamKind.ROUTER}
    decayed |= {ParamKind.EMBEDDING} if embeddings else set()
    return jax.tree.map(lambda kind: kind in decayed, param_kinds(logical_axes))
