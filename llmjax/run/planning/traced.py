"""What JAX's trace of a loss says of it: bytes kept for the backward pass, and FLOPs of products.

A trace needs no device and no memory, and follows the model as it is: its remat policy, its layers,
its sharding. It takes a second or two; memory and FLOPs are proportional to rows, so one row of a
mesh that splits only rows' lengths and heads serves for all batches and data-parallel sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding

from llmjax.losses.token_loss import token_loss
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import param_specs
from llmjax.parallel.mesh import logical_spec, present


@dataclass(frozen=True)
class Row:
    """A row to trace, and the devices that share it."""

    config: ModelConfig
    """Resolved."""
    compute: ComputeConfig
    length: int
    sizes: tuple[tuple[str, int], ...]
    """(mesh axis, devices), of which those that split rows are 1."""
    on_cpu: bool

    @property
    def model(self) -> Model:
        """The model as it is traced: an accelerator's own attention kernels keep the same arrays as
        attention in blocks, and some can only be traced where there is one."""
        if self.on_cpu:
            return Model(self.config, self.compute)
        return Model(self.config, replace(self.compute, attention="blocked"))

    @property
    def mesh(self) -> AbstractMesh:
        """Without devices."""
        return abstract_mesh(dict(self.sizes), "cpu" if self.on_cpu else "tpu")


def abstract_mesh(sizes: Mapping[str, int], platform: str) -> AbstractMesh:
    """A mesh without devices, for tracing."""
    device, sizes = AbstractDevice(platform, 1, platform), present(sizes)
    types = (AxisType.Explicit,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), types, abstract_device=device)


@cache
def kept_bytes(row: Row) -> float:
    """Bytes that the forward pass of a row keeps for the backward pass on one device, without
    parameters and what is offloaded to the host."""
    model = row.model

    def backward(params: Any, batch: Any) -> Any:
        return jax.vjp(
            lambda params: token_loss(model, params, batch, multi_token_weight=1.0).objective,
            params,
        )[1]

    with jax.sharding.use_abstract_mesh(row.mesh):
        params = sharded_params(row.config, row.compute, row.mesh)
        kept: Sequence[Any] = jax.make_jaxpr(backward)(params, one_row(row)).out_avals
    shapes = _shapes_of(params)
    on_device = [leaf for leaf in kept if leaf.memory_space != jax.memory.Space.Host]
    return sum(device_bytes(leaf) for leaf in on_device if (leaf.dtype, leaf.shape) not in shapes)


@dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products."""

    wide: float = 0.0
    narrow: float = 0.0
    """With operands of 8 bits."""
    grouped: float = 0.0
    """Of rows with the matrices of their experts."""

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.wide + other.wide, self.narrow + other.narrow, self.grouped + other.grouped
        )

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.wide * times, self.narrow * times, self.grouped * times)


@cache
def product_flops(row: Row) -> Flops:
    """FLOPs of the matrix products of a row, forward and backward, with what is recomputed, of all
    devices that share it; without attention in fused kernels or in loops over blocks."""
    model = row.model

    def loss(params: Any, batch: Any) -> jax.Array:
        return token_loss(model, params, batch, multi_token_weight=1.0).objective

    with jax.sharding.use_abstract_mesh(row.mesh):
        params = sharded_params(row.config, row.compute, row.mesh)
        return flops_of(jax.make_jaxpr(jax.grad(loss))(params, one_row(row)))


def sharded_params(config: ModelConfig, compute: ComputeConfig, mesh: AbstractMesh) -> Any:
    """Shapes, dtypes and shardings of a model's parameters."""

    def sharded(spec: Any) -> jax.ShapeDtypeStruct:
        return spec.shape.update(sharding=NamedSharding(mesh, logical_spec(*spec.axes, mesh=mesh)))

    return param_specs(config, compute).tree(sharded)


def one_row(row: Row) -> dict[str, Any]:
    """The batch of a packed row; an encoder-decoder reads as many tokens as it predicts."""
    sharding = NamedSharding(row.mesh, logical_spec("batch", "length", mesh=row.mesh))
    names = ["inputs", "targets", "positions", "segments"]
    if row.config.is_encoder_decoder:
        names += ["encoder_tokens", "encoder_positions", "encoder_segments"]
    integers = dict.fromkeys(names, jnp.int32)
    return {
        name: jax.ShapeDtypeStruct((1, row.length), dtype, sharding=sharding)
        for name, dtype in (integers | {"weights": jnp.float32}).items()
    }


def device_bytes(leaf: Any) -> float:
    """Bytes of an abstract array on one device."""
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    itemsize = leaf.dtype.itemsize if hasattr(leaf.dtype, "itemsize") else 8
    return float(math.prod(shape) * itemsize)


def _shapes_of(params: Any) -> set[tuple[Any, tuple[int, ...]]]:
    """Dtypes and shapes of parameters, also quantized, and of one layer of each stack: the backward
    pass reads these in place."""
    leaves = jax.tree.leaves(params)
    shapes = [leaf.shape for leaf in leaves] + [leaf.shape[1:] for leaf in leaves]
    dtypes = (jnp.float32, jnp.int8, jnp.float8_e4m3fn)
    return {(jnp.dtype(dtype), shape) for dtype in dtypes for shape in shapes if shape}


def flops_of(program: ClosedJaxpr) -> Flops:
    """FLOPs of all matrix products of a program; those in loops of unknown length count 0."""
    return _flops(program.jaxpr)


def _flops(jaxpr: Jaxpr) -> Flops:
    return sum(map(_equation_flops, jaxpr.eqns), Flops())


def _equation_flops(equation: JaxprEqn) -> Flops:
    name = equation.primitive.name
    if name == "ragged_dot_general":
        return _ragged_flops(equation)
    if equation.params.get("name") == "tgmm":  # Megablox's kernel, of [A, M] and [M, B]
        rows, others = _operands(equation)
        return Flops(grouped=2.0 * rows.size * others.shape[1])
    if name == "dot_general":
        (contract, _), _ = equation.params["dimension_numbers"]
        left: Any = equation.invars[0].aval
        result: Any = equation.outvars[0].aval
        summed = math.prod(left.shape[axis] for axis in contract)
        flops = 2.0 * math.prod(result.shape) * summed
        return Flops(narrow=flops) if left.dtype.itemsize == 1 else Flops(wide=flops)
    if name in ("while", "cond"):
        return Flops()
    times = equation.params["length"] if name == "scan" else 1
    inner = (part for value in equation.params.values() for part in _programs(value))
    if name == "shard_map":  # its shapes are those of one device
        times = math.prod(equation.params["mesh"].shape.values())
    return sum(map(_flops, inner), Flops()) * times


def _ragged_flops(equation: JaxprEqn) -> Flops:
    """FLOPs of a grouped product, in which each row is multiplied by the matrix of its group."""
    dimensions = equation.params["ragged_dot_dimension_numbers"]
    (_, contract), _ = dimensions.dot_dimension_numbers
    rows, matrices = _operands(equation)
    outer = {*range(matrices.ndim)} - {*contract, *dimensions.rhs_group_dimensions}
    return Flops(grouped=2.0 * rows.size * math.prod(matrices.shape[axis] for axis in outer))


def _operands(equation: JaxprEqn) -> tuple[Any, Any]:
    """The types of the first two arguments."""
    return equation.invars[0].aval, equation.invars[1].aval


def _programs(value: Any) -> list[Jaxpr]:
    """The programs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [part for item in value for part in _programs(item)] if isinstance(value, tuple) else []
