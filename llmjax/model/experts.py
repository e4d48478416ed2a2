"""The experts of a layer, on any mesh, and their derivative.

Each device sorts its own tokens by expert. The derivative is custom for the reasons of `products`,
and because that of a grouped product is made of grouped products: autodiff's would multiply every
row by all experts.
"""

from functools import partial
from typing import NamedTuple

import jax
from jax.ad_checkpoint import checkpoint_name

from llmjax.model import expert_exchange, expert_products, products
from llmjax.model.compute import Precision
from llmjax.model.expert_products import AXES, ExpertParams, ExpertProduct, Gradients, Inner
from llmjax.model.expert_rows import Tokens, sort
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes


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


class Kept(NamedTuple):
    """What the forward pass keeps; Nones where devices split the experts, and repeat it."""

    order: jax.Array | None
    """int32 [B, L K]: the choices of each device's tokens in order of experts."""
    up: jax.Array | None
    """[B, L K, F]."""
    gate: jax.Array | None


def _forward(
    x: jax.Array,
    weights: jax.Array,
    chosen: jax.Array,
    params: ExpertParams,
    how: ExpertProduct,
) -> tuple[jax.Array, tuple]:
    inputs, tokens = how.sharding.gathered(), how.tokens
    keeps = (tokens[:2], how.inner) if params.gate is None else (tokens[:2], how.inner, how.inner)

    def local(
        x: jax.Array, weights: jax.Array, chosen: jax.Array, *params: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        y, kept = _local_forward(how, Tokens(x, weights, chosen), ExpertParams(*params))
        return y, *(part for part in kept if part is not None)

    run = mesh.per_device(
        local,
        (inputs, tokens, tokens, *_gathered_axes()),
        (how.sharding.stream(), *(() if mesh.is_split("experts") else keeps)),
    )
    y, *found = run(x, weights, chosen, *_gather(params, how.precision))
    order, up, gate = [*found, None, None, None][:3]
    up = None if up is None else checkpoint_name(up, "up")
    gate = None if gate is None else checkpoint_name(gate, "gate")
    return checkpoint_name(y, "down"), (x, weights, chosen, params, Kept(order, up, gate))


def _backward(how: ExpertProduct, saved: tuple, dy: jax.Array) -> tuple:
    x, weights, chosen, params, kept = saved
    inputs, tokens = how.sharding.gathered(), how.tokens

    def local(
        dy: jax.Array,
        x: jax.Array,
        weights: jax.Array,
        chosen: jax.Array,
        order: jax.Array | None,
        up: jax.Array | None,
        gate: jax.Array | None,
        *params: jax.Array | None,
    ) -> tuple[jax.Array, ...]:
        tokens, kept = Tokens(x, weights, chosen), Kept(order, up, gate)
        found = _local_backward(how, dy, tokens, ExpertParams(*params), kept)
        return (found.x, found.weights, *(g for g in found.params if g is not None))

    present = [axes for axes, leaf in zip(AXES, params, strict=True) if leaf is not None]
    run = mesh.per_device(
        local,
        (inputs, inputs, tokens, tokens, tokens[:2], how.inner, how.inner, *_gathered_axes()),
        (inputs, tokens, *present),
    )
    kernels = _gather(params, how.precision)
    dx, dweights, *found = run(dy.astype(x.dtype), x, weights, chosen, *kept, *kernels)
    gradients = iter(found)
    dparams = (None if leaf is None else next(gradients).astype(leaf.dtype) for leaf in params)
    return dx, dweights, None, ExpertParams(*dparams)


experts.defvjp(_forward, _backward)


def _local_forward(
    how: ExpertProduct, tokens: Tokens, params: ExpertParams
) -> tuple[jax.Array, Kept]:
    (b, length, width), dtype = tokens.x.shape, tokens.x.dtype
    kept = Kept(None, None, None)
    if mesh.is_split("experts"):
        y = expert_exchange.forward(how, tokens, params)
    else:
        rows = sort(tokens, len(params.up))
        inner = expert_products.first_products(how, tokens, rows, params)
        y = expert_products.last_product(how, tokens, rows, params, inner)
        flat = (b, -1)
        up, gate = (x if x is None else x.reshape(*flat, x.shape[-1]) for x in inner)
        kept = Kept(rows.order.reshape(flat), up, gate)
    y = y.reshape(b, length, width).astype(products.reduced(how.precision, "mlp"))
    return exchanges.reduce_scatter(y, ("mlp",), how.sharding.stream()).astype(dtype), kept


def _local_backward(
    how: ExpertProduct, dy: jax.Array, tokens: Tokens, params: ExpertParams, kept: Kept
) -> Gradients:
    """Gradients, summed over devices and split as what they belong to."""
    dtype, dy = tokens.x.dtype, dy.reshape(-1, dy.shape[-1])
    if mesh.is_split("experts"):
        found = expert_exchange.backward(how, dy, tokens, params)
    else:
        assert kept.up is not None
        rows = sort(tokens, len(params.up), kept.order)
        up = kept.up.reshape(-1, kept.up.shape[-1])
        inner = Inner(up, None if kept.gate is None else kept.gate.reshape(up.shape))
        found = expert_products.backward(how, dy, tokens, rows, params, inner)
    dx = found.x.reshape(tokens.x.shape).astype(products.reduced(how.precision, "mlp"))
    dweights = found.weights.reshape(tokens.weights.shape)
    return Gradients(
        exchanges.reduce_scatter(dx, ("mlp",), how.sharding.gathered()).astype(dtype),
        exchanges.reduce_scatter(dweights, ("mlp",), how.tokens),
        _summed(found.params, how),
    )


def _summed(gradients: ExpertParams, how: ExpertProduct) -> ExpertParams:
    """Sums the gradients of the devices that share an expert's rows, each split as it is stored."""
    over = ("expert_batch", how.sharding.length)

    def summed(gradient: jax.Array | None, axes: Axes) -> jax.Array | None:
        if gradient is None:
            return None
        return exchanges.reduce_scatter(gradient, over, axes)

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
