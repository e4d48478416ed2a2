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
from llmjax.model.layers import ActivationSharding, Dense, adapter, constant, normal
from llmjax.model.lora import LoraConfig, Target
from llmjax.model.mlp import MLP
from llmjax.model.moe_config import MoEConfig
from llmjax.model.quantized import Weight, as_array
from llmjax.model.routing import Routing, route
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

FLOAT32 = Precision("float32", "float32")
KEPT = jax.checkpoint_policies.save_only_these_names("gate", "up", "down")
"""With adapters: sums of kernels are computed again in the backward pass, and products are not."""


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

        def project(
            name: Target, shape: tuple[int, ...], axes: Axes, bias_axes: Axes, std: float
        ) -> Stacked:
            lora = adapter(config, name)
            return Stacked(shape, axes, bias_axes, bias=bias, std=std, rngs=rngs, lora=lora)

        if self.gated:
            self.gate = project("gate", (n, d, f), AXES.gate, AXES.gate_bias, std)
        self.up = project("up", (n, d, f), AXES.up, AXES.up_bias, std)
        self.down = project("down", (n, f, d), AXES.down, AXES.down_bias, out_std)

    def __call__(self, x: jax.Array, routing: Routing, sharding: ActivationSharding) -> jax.Array:
        """[B, L, D] split as `gathered()` -> [B, L, D] split as `stream()`."""
        parts = (self.gate if self.gated else None, self.up, self.down)
        how = ExpertProduct(
            self.nonlinearity, self.weight_inputs, self.precision, sharding, self.buffer
        )

        def run(x: jax.Array, weights: jax.Array, chosen: jax.Array) -> jax.Array:
            params = ExpertParams(
                *(None if part is None else part.weight(self.precision) for part in parts),
                *(part.bias[...] if part is not None and part.has_bias else None for part in parts),
            )
            return experts(x, weights, chosen, params, how)

        if any(part is not None and part.lora is not None for part in parts):
            run = jax.checkpoint(run, prevent_cse=False, policy=KEPT)
        return run(x.astype(self.precision.dtype), routing.weights, routing.chosen)


class Stacked(nnx.Module):
    """A projection of each expert: kernel [N, inner, outer], optional bias [N, outer].

    With an adapter for each expert also lora_a [N, inner, rank] and lora_b [N, rank, outer].
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: Axes,
        bias_axes: Axes,
        *,
        bias: bool,
        std: float,
        rngs: nnx.Rngs,
        lora: LoraConfig | None,
    ):
        self.kernel, self.has_bias = normal(rngs, shape, axes, std, (-2,)), bias
        self.axes, self.lora = axes, lora
        if bias:
            self.bias = constant(0.0, (shape[0], shape[2]), bias_axes)
        if lora is not None:
            n, inner, outer = shape
            a_axes, b_axes = (*axes[:2], None), (axes[0], None, axes[2])
            self.lora_a = normal(rngs, (n, inner, lora.rank), a_axes, (3 * inner) ** -0.5)
            self.lora_b = constant(0.0, (n, lora.rank, outer), b_axes)

    def weight(self, precision: Precision) -> Weight:
        """The kernel; with an adapter, their sum in the compute dtype.

        An expert has few rows, and so its own product with a narrow A and B would cost more than
        the sum.
        """
        kernel: Weight = self.kernel.get_value()
        if self.lora is None:
            return kernel
        added = jnp.einsum(
            "nir,nro->nio",
            self.lora_a[...],
            self.lora_b[...],
            precision=jax.lax.Precision.HIGHEST,
            out_sharding=mesh.out_sharding(*self.axes),
        )
        total = as_array(kernel, self.axes, "float32") + self.lora.scale * added
        return total.astype(precision.dtype)
