"""A mixture of experts in place of the MLP of a layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model import products
from llmjax.model.activations import nonlinearity
from llmjax.model.aux_sums import Aux
from llmjax.model.compute import ComputeConfig, Precision
from llmjax.model.config import ModelConfig
from llmjax.model.expert_products import AXES, ExpertParams, ExpertProduct
from llmjax.model.experts import experts
from llmjax.model.layers import ActivationSharding, Dense, constant, normal
from llmjax.model.mlp import MLP
from llmjax.model.moe_config import MoEConfig
from llmjax.model.routing import Routing, route
from llmjax.parallel.mesh import Axes

FLOAT32 = Precision("float32", "float32")


class MoE(nnx.Module):
    """The sum of each token's experts, and of the shared expert if there is one."""

    def __init__(
        self,
        config: ModelConfig,
        moe: MoEConfig,
        compute: ComputeConfig,
        *,
        out_std: float,
        rngs: nnx.Rngs,
    ):
        self.moe, self.precision = moe, compute.precision
        self.router = Router(config, moe, compute, rngs=rngs)
        self.experts = Experts(config, moe, compute, out_std=out_std, rngs=rngs)
        if moe.shared_width:
            width = moe.shared_width
            self.shared = MLP(config, compute, width=width, out_std=out_std, rngs=rngs)
        if moe.shared_gate:
            self.shared_gate = Dense(
                (config.d_model, 1),
                ("embed", None),
                bias=False,
                std=compute.init_std,
                precision=compute.precision,
                rngs=rngs,
            )

    def __call__(
        self,
        x: jax.Array,
        sharding: ActivationSharding,
        is_token: jax.Array | None,
        *,
        drops: bool = True,
    ) -> tuple[jax.Array, Aux]:
        """[B, L, D] split as `gathered()` -> [B, L, D] split as `stream()`, and the router's sums.

        Args:
          x: of any dtype.
          sharding: how activations are split.
          is_token: [B, L] bool, False for padding; None: all are.
          drops: whether a capacity applies, if the config has one.
        """
        routing = self.router(x, sharding, is_token, drops=drops)
        y = self.experts(x, routing, sharding)
        if self.moe.shared_width:
            shared, _ = self.shared(x, sharding)
            y = y + self._gated(shared, x, sharding)
        return y, routing.aux

    def _gated(self, shared: jax.Array, x: jax.Array, sharding: ActivationSharding) -> jax.Array:
        if not self.moe.shared_gate:
            return shared
        gate = jax.nn.sigmoid(self.shared_gate(x, sharding.stream()).astype(jnp.float32))
        return (shared.astype(jnp.float32) * gate).astype(shared.dtype)


class Router(nnx.Module):
    """A projection to a logit for each expert, in float32, and the choice."""

    def __init__(
        self, config: ModelConfig, moe: MoEConfig, compute: ComputeConfig, *, rngs: nnx.Rngs
    ):
        self.moe = moe
        shape, axes, std = (config.d_model, moe.num_experts), ("embed", "router"), compute.init_std
        self.kernel = normal(rngs, shape, axes, std)
        if moe.router_bias:
            self.bias = constant(0.0, shape[1:], ("router",))
        if moe.selection_bias:
            self.selection_bias = constant(0.0, shape[1:], ("selection",))

    def __call__(
        self,
        x: jax.Array,
        sharding: ActivationSharding,
        is_token: jax.Array | None,
        *,
        drops: bool,
    ) -> Routing:
        """[B, L, D] split as `gathered()` -> the routing of its tokens."""
        logits = products.dense(
            x,
            self.kernel[...],
            self.bias[...] if self.moe.router_bias else None,
            axes=("embed", "router"),
            out=sharding.gathered(),
            precision=FLOAT32,
        )
        bias = self.selection_bias[...] if self.moe.selection_bias else None
        return route(logits, bias, self.moe, is_token, sharding, drops=drops)


class Experts(nnx.Module):
    """The experts' projections, stacked."""

    def __init__(
        self,
        config: ModelConfig,
        moe: MoEConfig,
        compute: ComputeConfig,
        *,
        out_std: float,
        rngs: nnx.Rngs,
    ):
        n, d, f = moe.num_experts, config.d_model, config.expert_width
        self.nonlinearity, self.gated = nonlinearity(config), config.gated
        self.weight_inputs, self.precision = moe.weight_inputs, compute.precision
        self.buffer = compute.expert_buffer
        std, bias = compute.init_std, moe.expert_bias

        def project(shape: tuple[int, ...], axes: Axes, bias_axes: Axes, std: float) -> Stacked:
            return Stacked(shape, axes, bias_axes, bias=bias, std=std, rngs=rngs)

        if self.gated:
            self.gate = project((n, d, f), AXES.gate, AXES.gate_bias, std)
        self.up = project((n, d, f), AXES.up, AXES.up_bias, std)
        self.down = project((n, f, d), AXES.down, AXES.down_bias, out_std)

    def __call__(self, x: jax.Array, routing: Routing, sharding: ActivationSharding) -> jax.Array:
        """[B, L, D] split as `gathered()` -> [B, L, D] split as `stream()`."""
        parts = (self.gate if self.gated else None, self.up, self.down)
        params = ExpertParams(
            *(None if part is None else part.kernel.get_value() for part in parts),
            *(part.bias[...] if part is not None and part.has_bias else None for part in parts),
        )
        how = ExpertProduct(
            self.nonlinearity, self.weight_inputs, self.precision, sharding, self.buffer
        )
        x = x.astype(self.precision.dtype)
        return experts(x, routing.weights, routing.chosen, params, how)


class Stacked(nnx.Module):
    """A projection of each expert: kernel [N, inner, outer], optional bias [N, outer]."""

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: Axes,
        bias_axes: Axes,
        *,
        bias: bool,
        std: float,
        rngs: nnx.Rngs,
    ):
        self.kernel, self.has_bias = normal(rngs, shape, axes, std, (-2,)), bias
        if bias:
            self.bias = constant(0.0, (shape[0], shape[2]), bias_axes)
