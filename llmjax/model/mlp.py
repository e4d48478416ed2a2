"""The MLP of a layer."""

import jax
from flax import nnx

from llmjax.model.activations import nonlinearity
from llmjax.model.aux_sums import Aux
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import ActivationSharding, Dense, adapter
from llmjax.model.lora import Target
from llmjax.parallel.mesh import Axes


class MLP(nnx.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) where gated."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        width: int,
        out_std: float,
        rngs: nnx.Rngs,
    ):
        d, f = config.d_model, width
        self.gated, self.nonlinearity = config.gated, nonlinearity(config)
        bias, precision = config.mlp_bias, compute.precision

        def project(name: Target, shape: tuple[int, int], axes: Axes, std: float) -> Dense:
            lora = adapter(config, name)
            return Dense(
                shape,
                axes,
                bias=bias,
                std=std,
                precision=precision,
                rngs=rngs,
                lora=lora,
                name=name,
            )

        if self.gated:
            self.gate = project("gate", (d, f), ("embed", "mlp"), compute.init_std)
        self.up = project("up", (d, f), ("embed", "mlp"), compute.init_std)
        self.down = project("down", (f, d), ("mlp", "embed"), out_std)

    def __call__(self, x: jax.Array, sharding: ActivationSharding) -> tuple[jax.Array, Aux]:
        """[B, L, D] split as `gathered()` -> [B, L, D] split as `stream()`, and no sums."""
        up = self.up(x, sharding.mlp())
        gate = self.gate(x, sharding.mlp()) if self.gated else None
        inner = jax.checkpoint(self._activate, prevent_cse=False)(up, gate)
        return self.down(inner, sharding.stream()), {}

    def _activate(self, up: jax.Array, gate: jax.Array | None) -> jax.Array:
        """Computes in float32; the backward pass recomputes from the two products."""
        return self.nonlinearity.apply(up, gate).astype(up.dtype)
