"""The experts of a layer: tokens sorted by expert, grouped products, and their derivative.

Each device sorts its own tokens. The derivative is custom for the reasons of `products`, and
because that of a grouped product is made of grouped products: autodiff's would multiply every row
by all experts. A token's weight multiplies the activations before the last product, so that the
derivative needs no outputs of experts.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llmjax.model import products
from llmjax.model.activations import Nonlinearity
from llmjax.model.compute import Precision
from llmjax.model.expert_rows import SortedChoices, Tokens, sort
from llmjax.model.grouped import grouped_dot, grouped_outer
from llmjax.model.layers import ActivationSharding
from llmjax.parallel import exchanges, mesh
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

    gate: Axes = ("experts", "embed", "mlp")
    up: Axes = ("experts", "embed", "mlp")
    down: Axes = ("experts", "mlp", "embed")
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

    @property
    def tokens(self) -> Axes:
        """Axes of what tokens have for each choice, [B, L, K]."""
        return ("batch", self.sharding.length, None)

    @property
    def inner(self) -> Axes:
        """Axes of the inner activations in order of experts, [B, L K, F]."""
        return ("batch", self.sharding.length, "mlp")


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def experts(
    x: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    params: ExpertParams,
    how: ExpertProduct,
) -> jax.Array:
    """Sums the outputs of each token's experts, times their weights.

    Args:
      x: [B, L, D], split as `sharding.gathered()`.
      weights: [B, L, K] float32.
      chosen: [B, L, K] int32, the experts; N, their number, stands for none.
      params: of the experts.
      how: they are computed.

    Returns:
      [B, L, D] in the compute dtype, split as `sharding.stream()`.
    """
    return _forward(x, weights, chosen, params, how)[0]


def _forward(
    x: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    params: ExpertParams,
    how: ExpertProduct,
) -> tuple[jax.Array, tuple]:
    inputs, tokens = how.sharding.gathered(), how.tokens
    up_and_gate = (how.inner,) * (1 if params.gate is None else 2)

    def local(
        x: jax.Array, weights: jax.Array, chosen: jax.Array, *params: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        return _local_forward(how, Tokens(x, weights, chosen), ExpertParams(*params))

    run = mesh.per_device(
        local,
        (inputs, tokens, tokens, *_gathered_axes()),
        (how.sharding.stream(), tokens[:2], *up_and_gate),
    )
    y, order, up, *gate = run(x, weights, chosen, *_gather(params, how.precision))
    up = checkpoint_name(up, "up")
    gate = checkpoint_name(gate[0], "gate") if gate else None
    return checkpoint_name(y, "down"), (x, weights, chosen, params, order, up, gate)


def _backward(how: ExpertProduct, saved: tuple, dy: jax.Array) -> tuple:
    x, weights, chosen, params, order, up, gate = saved
    inputs, tokens = how.sharding.gathered(), how.tokens

    def local(
        dy: jax.Array,
        x: jax.Array,
        weights: jax.Array,
        chosen: jax.Array,
        order: jax.Array,
        up: jax.Array,
        gate: jax.Array | None,
        *params: jax.Array | None,
    ) -> tuple[jax.Array, ...]:
        tokens, given = Tokens(x, weights, chosen), ExpertParams(*params)
        dx, dweights, gradients = _local_backward(how, dy, tokens, given, order, up, gate)
        return (dx, dweights, *(g for g in gradients if g is not None))

    present = [axes for axes, leaf in zip(AXES, params, strict=True) if leaf is not None]
    run = mesh.per_device(
        local,
        (inputs, inputs, tokens, tokens, tokens[:2], how.inner, how.inner, *_gathered_axes()),
        (inputs, tokens, *present),
    )
    kernels = _gather(params, how.precision)
    dx, dweights, *found = run(dy.astype(x.dtype), x, weights, chosen, order, up, gate, *kernels)
    gradients = iter(found)
    dparams = (None if leaf is None else next(gradients).astype(leaf.dtype) for leaf in params)
    return dx, dweights, None, ExpertParams(*dparams)


experts.defvjp(_forward, _backward)


def _local_forward(
    how: ExpertProduct, tokens: Tokens, params: ExpertParams
) -> tuple[jax.Array, ...]:
    """The output, the order of choices, and the results of the products up and gate."""
    b, length, width = tokens.x.shape
    rows, dtype = sort(tokens, len(params.up)), tokens.x.dtype
    inputs = _inputs(how, tokens, rows)

    def project(kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        y = grouped_dot(inputs, kernel, rows.sizes)
        return (y if bias is None else y + rows.bias(bias)).astype(dtype)

    up = project(params.up, params.up_bias)
    gate = None if params.gate is None else project(params.gate, params.gate_bias)
    inner = how.nonlinearity.apply(up, gate)
    inner = inner if how.weight_inputs else inner * rows.weight
    y = grouped_dot(inner.astype(dtype), params.down, rows.sizes)
    if params.down_bias is not None:
        y = y + _first_part(rows.bias(params.down_bias) * _output_weight(how, rows))
    y = rows.per_token(y, b * length).reshape(b, length, width)
    y = y.astype(products.reduced(how.precision, "mlp"))
    y = exchanges.reduce_scatter(y, ("mlp",), how.sharding.stream()).astype(dtype)
    flat = (b, -1)
    saved = [part.reshape(*flat, part.shape[-1]) for part in (up, gate) if part is not None]
    return y, rows.order.reshape(flat), *saved


def _local_backward(
    how: ExpertProduct,
    dy: jax.Array,
    tokens: Tokens,
    params: ExpertParams,
    order: jax.Array,
    up: jax.Array,
    gate: jax.Array | None,
) -> tuple[jax.Array, jax.Array, ExpertParams]:
    """Gradients of the input, of the weights and of the parameters."""
    rows, dtype = sort(tokens, len(params.up), order), tokens.x.dtype
    up = up.reshape(-1, up.shape[-1])
    gate = None if gate is None else gate.reshape(up.shape)
    dy = jnp.where(rows.is_chosen, dy.reshape(-1, dy.shape[-1])[rows.token], 0)
    dinner = grouped_dot(dy, params.down, rows.sizes, transposed=True)
    inner, back = jax.vjp(how.nonlinearity.apply, up, gate)
    dweight = jnp.zeros_like(rows.weight)
    if not how.weight_inputs:
        dweight = (dinner * inner).sum(-1, keepdims=True)
        inner, dinner = inner * rows.weight, dinner * rows.weight
    dup, dgate = back(dinner)
    inputs = _inputs(how, tokens, rows)
    dinputs = grouped_dot(dup, params.up, rows.sizes, transposed=True)
    if params.gate is not None:
        dinputs += grouped_dot(dgate, params.gate, rows.sizes, transposed=True)
    if how.weight_inputs:
        dweight = (dinputs * tokens.rows[rows.token]).sum(-1, keepdims=True)
        dinputs *= rows.weight
    if params.down_bias is not None and not how.weight_inputs:
        dweight += _first_part((dy * rows.bias(params.down_bias)).sum(-1, keepdims=True))
    gradients = ExpertParams(
        gate=None if params.gate is None else grouped_outer(inputs, dgate, rows.sizes),
        up=grouped_outer(inputs, dup, rows.sizes),
        down=grouped_outer(inner.astype(dtype), dy, rows.sizes),
        gate_bias=_bias_gradient(params.gate_bias, dgate, rows),
        up_bias=_bias_gradient(params.up_bias, dup, rows),
        down_bias=_bias_gradient(params.down_bias, dy * _output_weight(how, rows), rows),
    )
    dx = rows.per_token(dinputs, len(tokens.rows)).reshape(tokens.x.shape)
    dx = dx.astype(products.reduced(how.precision, "mlp"))
    dweights = rows.per_choice(dweight[:, 0]).reshape(tokens.weights.shape)
    return (
        exchanges.reduce_scatter(dx, ("mlp",), how.sharding.gathered()).astype(dtype),
        exchanges.reduce_scatter(dweights, ("mlp",), how.tokens),
        _summed(gradients, how),
    )


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
    bias: jax.Array | None, dy: jax.Array | None, rows: SortedChoices
) -> jax.Array | None:
    if bias is None or dy is None:
        return None
    return rows.per_expert(dy.astype(jnp.float32))


def _first_part(x: jax.Array) -> jax.Array:
    """Of the devices that split the width of experts, zeros on all but the first."""
    return jnp.where(jnp.asarray(mesh.part_index("mlp")) == 0, x, 0)


def _summed(gradients: ExpertParams, how: ExpertProduct) -> ExpertParams:
    """Sums the gradients of the devices that share the tokens, each split as it is stored."""
    over = ("batch", how.sharding.length)
    dtype = products.reduced(how.precision, *over)

    def summed(gradient: jax.Array | None, axes: Axes) -> jax.Array | None:
        if gradient is None:
            return None
        return exchanges.reduce_scatter(gradient.astype(dtype), over, axes)

    return ExpertParams(*map(summed, gradients, AXES))


def _gathered_axes() -> list[Axes]:
    return [products.gathered(axes) for axes in AXES]


def _gather(params: ExpertParams, precision: Precision) -> list[jax.Array | None]:
    """Kernels as products need them: gathered, in the compute dtype; biases in float32."""
    kernels = [
        None if leaf is None else products.gather(leaf, axes, precision.dtype)
        for leaf, axes in zip(params[:3], AXES[:3], strict=True)
    ]
    return [*kernels, *params[3:]]
