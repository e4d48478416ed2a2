"""Parameter specs (names, shapes, logical axes), and unstacking of layers."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
from flax import nnx

from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_loop import split_layers
from llmjax.model.layer_types import is_group
from llmjax.model.multi_token import MultiTokenModule
from llmjax.model.projections import quantize_products
from llmjax.model.stages import check_stages
from llmjax.model.transformer import Transformer
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Params = dict[str, Any]
"""A nested dict of arrays; layers are stacked along a leading axis, or a tuple if unstacked."""


class ParamSpec(NamedTuple):
    """A parameter's path, shape and dtype, and logical axes."""

    path: tuple[str, ...]
    shape: jax.ShapeDtypeStruct
    axes: Axes
    inner: tuple[int, ...] | None = None
    """Of a projection's kernel, and of a table of tokens: the dimensions that a product with it
    sums over, counted from the end."""
    quantized: bool = False
    """Whether products with it are quantized in training."""


class ParamSpecs(NamedTuple):
    """The module's graph, without arrays, and the specs of its parameters."""

    graph: nnx.GraphDef
    specs: tuple[ParamSpec, ...]

    def tree(self, leaf: Callable[[ParamSpec], Any]) -> Params:
        """Returns the nested dict with `leaf(spec)` for each parameter."""
        return nnx.traversals.unflatten_mapping({spec.path: leaf(spec) for spec in self.specs})

    def check_divides(self) -> None:
        """Checks that all parameters divide over the current mesh, if there is one.

        Raises:
          UserError: names all that do not.
        """
        if not mesh.has_mesh():
            return
        devices, problems = jax.sharding.get_abstract_mesh(), []
        for path, shape, axes, *_ in self.specs:
            try:
                mesh.check_divides(".".join(path), shape.shape, axes, devices)
            except UserError as error:
                problems.append(f"{error.thing}: {error.reason}")
        if problems:
            fix = "change the size or the mesh"
            raise UserError("model on this mesh", "; ".join(problems), fix)


def new_module(config: ModelConfig, compute: ComputeConfig, rngs: nnx.Rngs) -> Transformer:
    """The module of a config, with what only training uses."""
    module = Transformer(config, compute, rngs=rngs)
    if config.multi_token:
        module.multi_token = MultiTokenModule(config, compute, rngs=rngs)
    return module


@cache
def param_specs(config: ModelConfig, compute: ComputeConfig) -> ParamSpecs:
    """Returns the parameter specs of a resolved config; they do not depend on the mesh.

    Raises:
      UserError: a pattern of `compute.quantized_params` matches no projection.
    """
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        module = nnx.eval_shape(lambda: new_module(config, compute, nnx.Rngs(0)))
    quantized = quantize_products(module, compute)
    graph, state = nnx.split(module, nnx.Param)

    def declare(path: tuple[str, ...], param: nnx.Param) -> ParamSpec:
        axes = param.get_metadata("axes")  # of one layer: a stack has one more dimension
        axes = ("layers",) * (param.ndim - len(axes)) + axes
        shape = jax.ShapeDtypeStruct(param.shape, param.dtype)
        return ParamSpec(path, shape, axes, param.get_metadata().get("inner"), path in quantized)

    flat = nnx.to_flat_state(state)
    return ParamSpecs(graph, tuple(declare(tuple(map(str, path)), leaf) for path, leaf in flat))


def check_mesh(config: ModelConfig, compute: ComputeConfig) -> None:
    """Checks that a model of a resolved config divides over the current mesh, if there is one.

    Raises:
      UserError: its layers do not divide over the stages, or names all parameters that do not, or
        there are devices for experts and it has none, or for the length and it has linear
        attention.
    """
    if mesh.is_split("experts") and config.moe is None:
        name, reason = (
            f"mesh.expert={mesh.parts('experts')}",
            "the model has no experts (model.moe)",
        )
        raise UserError(name, reason, "split its weights with mesh.fsdp")
    check_split(config, compute)


def check_split(config: ModelConfig, compute: ComputeConfig) -> None:
    """As `check_mesh`, of a model that only lends its parameters to one that may have experts."""
    if mesh.is_split("length") and config.linear is not None:
        name = f"mesh.sequence={mesh.parts('length')}"
        reason = "linear attention (model.linear) does not split rows along their length"
        raise UserError(name, reason, "split the batch with mesh.fsdp, or heads with mesh.tensor")
    check_stages(config, compute, mesh.parts("layers"))
    param_specs(config, compute).check_divides()


def unstack_layers(params: Params) -> Params:
    """Returns the parameters with a tuple of layers in place of stacked arrays.

    A model's functions accept both. Programs with unstacked layers are longer, but decode faster,
    since each weight is contiguous. The stacked arrays are deleted one by one as they are split.
    """
    split = dict(params)
    for stack in {"encoder", "decoder"} & set(params):
        groups = filter(is_group, params[stack])
        split[stack] = params[stack] | {name: _unstacked(params[stack][name]) for name in groups}
    return split


def _unstacked(stacked: Params) -> tuple[Params, ...]:
    leaves, tree = jax.tree.flatten(stacked)
    layers: list[list[jax.Array]] = [[] for _ in range(len(leaves[0]))]
    for leaf in leaves:
        for layer, part in zip(layers, _split(leaf, len(leaf)), strict=True):
            layer.append(part)
        leaf.delete()
    return tuple(jax.tree.unflatten(tree, layer) for layer in layers)


_split = jax.jit(split_layers, static_argnums=1)


def unstacked_layers(params: Params, stack: str) -> dict[str, tuple[Params, ...]] | None:
    """Returns the layers of a stack by group if they are unstacked, else None."""
    groups = {name: part for name, part in params.get(stack, {}).items() if is_group(name)}
    return groups if any(isinstance(part, tuple) for part in groups.values()) else None
