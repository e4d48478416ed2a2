"""What a config's parameters are, before any exists: names, shapes and logical axes."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx

from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.transformer import Transformer
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Params = dict[str, Any]
"""A nested dict of arrays; the layers of a stack are stacked along a leading axis (or a tuple)."""


class Declared(NamedTuple):
    """One parameter: its name's parts, its shape and dtype, its logical axes."""

    path: tuple[str, ...]
    shape: jax.ShapeDtypeStruct
    axes: Axes


class Plan(NamedTuple):
    """The module without its arrays, and what it declares."""

    graph: nnx.GraphDef
    declared: tuple[Declared, ...]

    def tree(self, leaf: Callable[[Declared], Any]) -> Params:
        """The nested dict with `leaf(declared)` for each parameter."""
        return nnx.traversals.unflatten_mapping({d.path: leaf(d) for d in self.declared})

    def check_mesh(self) -> None:
        """Checks that every parameter divides over the mesh that is set, if one is.

        Raises:
          UserError: names all that do not.
        """
        if not mesh.has_mesh():
            return
        place, found = jax.sharding.get_abstract_mesh(), []
        for path, shape, axes in self.declared:
            try:
                mesh.check_divides(".".join(path), shape.shape, axes, place)
            except UserError as problem:
                found.append(f"{problem.thing}: {problem.reason}")
        if found:
            raise UserError("model on this mesh", "; ".join(found), "change the size or the mesh")


@cache
def plan(config: ModelConfig, compute: ComputeConfig) -> Plan:
    """The plan of a resolved config; it is the same under every mesh."""
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        module = nnx.eval_shape(lambda: Transformer(config, compute, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(module, nnx.Param)

    def declare(path: tuple[str, ...], param: nnx.Param) -> Declared:
        axes = param.get_metadata("axes")  # one layer's: a stack has a dimension more
        axes = ("layers",) * (param.ndim - len(axes)) + axes
        return Declared(path, jax.ShapeDtypeStruct(param.shape, param.dtype), axes)

    flat = nnx.to_flat_state(state)
    return Plan(graph, tuple(declare(tuple(map(str, path)), leaf) for path, leaf in flat))
