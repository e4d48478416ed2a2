"""What a parameter is to an optimizer, read from its logical axes.

Layers are stacked along a leading axis; what is defined for one matrix is done for each of them.
"""

from enum import StrEnum

import jax

from llmjax.optimizers.config import Tree
from llmjax.parallel.mesh import Axes


class ParamKind(StrEnum):
    """How an optimizer sees a parameter."""

    MATRIX = "matrix"
    EMBEDDING = "embedding"
    VECTOR = "vector"


def param_kind(axes: Axes) -> ParamKind:
    """A map into or out of the residual stream, a table of rows, or else a norm's scale or a bias.

    A bias of heads has two axes, heads and head_dim, but not the residual stream's.
    """
    inner = [axis for axis in axes if axis != "layers"]
    if len(inner) < 2:
        return ParamKind.VECTOR
    if "vocab" in inner or "positions" in inner:
        return ParamKind.EMBEDDING
    return ParamKind.MATRIX if "embed" in inner else ParamKind.VECTOR


def param_kinds(logical_axes: Tree) -> Tree:
    """The tree of `param_kind`s of a tree of logical axes."""
    return jax.tree.map(param_kind, logical_axes, is_leaf=lambda axes: isinstance(axes, tuple))


def decay_mask(logical_axes: Tree, embeddings: bool) -> Tree:
    """The tree of bools: whether weight decay applies to a parameter."""
    decayed = {ParamKind.MATRIX, ParamKind.EMBEDDING} if embeddings else {ParamKind.MATRIX}
    return jax.tree.map(lambda kind: kind in decayed, param_kinds(logical_axes))
