"""A device's experts: grouped products of its tokens, and their derivative.

A token's weight multiplies the activations before the last product, so that the derivative needs
no outputs of experts. Results of products are in the compute dtype, like those of other layers,
since in float32 they would be most of what an accelerator reads and writes here. Where devices
split the width of experts (tensor parallelism), results are sums over their own part of it.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model import products
from llmjax.model.activations import Nonlinearity
from llmjax.model.compute import Precision
from llmjax.model.expert_rows import SortedChoices, Tokens
from llmjax.model.grouped import grouped_dot, grouped_outer
from llmjax.model.layers import ActivationSharding
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

Param = Any
"""An array, a quantized one (`Weight`), or None where a model has no gate or no biases."""


class ExpertParams(NamedTuple):
    """Stacked parameters of the experts; as stored, or their kernels gathered for products."""

    gate: Param
    """[N, D, F]."""
    up: Param
    down: Param
    """[N, F, D]."""
    gate_bias: Param
    """[N, F]."""
    up_bias: Param
    down_bias: Param
    """[N, D]."""


class ExpertAxes(NamedTuple):
    """Logical axes of `ExpertParams`, as stored."""

    gate: Axes = ("experts", "expert_embed", "mlp")
    up: Axes = ("experts", "expert_embed", "mlp")
    down: Axes = ("experts", "mlp", "expert_embed")
    gate_bias: Axes = ("experts", "mlp")
    up_bias: Axes = ("experts", "mlp")
    down_bias: Axes = ("experts", None)


AXES = ExpertAxes()


class ExpertProduct(NamedTuple):
    """How experts are computed."""

    nonlinearity: Nonlinearity
    weight_inputs: bool
    precision: Precision
    sharding: ActivationSharding
    buffer: float
    """As `ComputeConfig.expert_buffer`."""

    @property
    def tokens(self) -> Axes:
        """Axes of what tokens have for each choice, [B, L, K]."""
        return ("batch", self.sharding.length, None)

    @property
    def inner(self) -> Axes:
        """Axes of the inner activations in order of experts, [B, L K, F]."""
        return ("batch", self.sharding.length, "mlp")

    @property
    def gradient_dtype(self) -> str:
        """In which gradients of parameters are added over devices."""
        return products.reduced(self.precision, "expert_batch", self.sharding.length)


class Inner(NamedTuple):
    """Results of the first products of the choices, in order of experts: [M, F] each."""

    up: jax.Array
    gate: jax.Array | None


class Gradients(NamedTuple):
    """Of a device's tokens and experts."""

    x: jax.Array
    """float32 [b l, D]."""
    weights: jax.Array
    """float32 [b l, K]."""
    params: ExpertParams
    """In `ExpertProduct.gradient_dtype`."""


def first_products(
    how: ExpertProduct, tokens: Tokens, rows: SortedChoices, params: ExpertParams
) -> Inner:
    """The inner activations before the nonlinearity, in the dtype of the tokens."""
    inputs, dtype = _inputs(how, tokens, rows), tokens.x.dtype.name

    def project(kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        y = grouped_dot(inputs, kernel, rows.sizes, result=dtype)
        return (y if bias is None else y + rows.bias(bias)).astype(dtype)

    up = project(params.up, params.up_bias)
    gate = None if params.gate is None else project(params.gate, params.gate_bias)
    return Inner(up, gate)


def last_product(
    how: ExpertProduct, tokens: Tokens, rows: SortedChoices, params: ExpertParams, inner: Inner
) -> jax.Array:
    """The weighted outputs of each token's experts, summed: float32 [b l, D]."""
    dtype, activated = tokens.x.dtype.name, how.nonlinearity.apply(*inner)
    activated = activated if how.weight_inputs else activated * rows.weight
    y = grouped_dot(activated.astype(dtype), params.down, rows.sizes, result=dtype)
    if params.down_bias is not None:
        y = y + _first_part(rows.bias(params.down_bias) * _output_weight(how, rows))
    return rows.per_token(y, tokens.rows.shape[0])


def backward(
    how: ExpertProduct,
    dy: jax.Array,
    tokens: Tokens,
    rows: SortedChoices,
    params: ExpertParams,
    inner: Inner,
) -> Gradients:
    """The gradients, given that of the output, [b l, D]."""
    dtype, (up, gate) = tokens.x.dtype.name, inner
    dot = partial(grouped_dot, sizes=rows.sizes, transposed=True, result=dtype)
    outer = partial(grouped_outer, sizes=rows.sizes, result=how.gradient_dtype)
    dy = jnp.where(rows.is_chosen, dy[rows.token], 0)
    dinner = dot(dy, params.down).astype(jnp.float32)
    activated, back = jax.vjp(how.nonlinearity.apply, up, gate)
    dweight = jnp.zeros_like(rows.weight)
    if not how.weight_inputs:
        dweight = (dinner * activated).sum(-1, keepdims=True)
        activated, dinner = activated * rows.weight, dinner * rows.weight
    dup, dgate = back(dinner)
    inputs = _inputs(how, tokens, rows)
    dinputs = dot(dup, params.up).astype(jnp.float32)
    if params.gate is not None:
        dinputs += dot(dgate, params.gate)
    if how.weight_inputs:
        dweight = (dinputs * tokens.rows[rows.token]).sum(-1, keepdims=True)
        dinputs *= rows.weight
    if params.down_bias is not None and not how.weight_inputs:
        dweight += _first_part((dy * rows.bias(params.down_bias)).sum(-1, keepdims=True))
    gradients = ExpertParams(
        gate=None if params.gate is None else outer(inputs, dgate),
        up=outer(inputs, dup),
        down=outer(activated.astype(dtype), dy),
        gate_bias=_bias_gradient(how, params.gate_bias, dgate, rows),
        up_bias=_bias_gradient(how, params.up_bias, dup, rows),
        down_bias=_bias_gradient(how, params.down_bias, dy * _output_weight(how, rows), rows),
    )
    count = tokens.rows.shape[0]
    weights = rows.per_choice(dweight[:, 0]).reshape(count, -1)
    return Gradients(rows.per_token(dinputs, count), weights, gradients)


def _inputs(how: ExpertProduct, tokens: Tokens, rows: SortedChoices) -> jax.Array:
    """The inputs of the experts, [M, D]."""
    x = tokens.rows[rows.token]
    if not how.weight_inputs:
        return x
    return (x.astype(jnp.float32) * rows.weight).astype(x.dtype)


def _output_weight(how: ExpertProduct, rows: SortedChoices) -> jax.Array:
    """What multiplies the outputs of experts, [M, 1]."""
    return rows.is_chosen.astype(jnp.float32) if how.weight_inputs else rows.weight


def _bias_gradient(
    how: ExpertProduct, bias: jax.Array | None, dy: jax.Array | None, rows: SortedChoices
) -> jax.Array | None:
    if bias is None or dy is None:
        return None
    return rows.per_expert(dy.astype(jnp.float32)).astype(how.gradient_dtype)


def _first_part(x: jax.Array) -> jax.Array:
    """Of the devices that split the width of experts, zeros on all but the first."""
    return jnp.where(jnp.asarray(mesh.part_index("mlp")) == 0, x, 0)
