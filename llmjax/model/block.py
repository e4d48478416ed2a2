"""One layer of a stack: attention, cross-attention if there is an encoder, MLP."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.aux_sums import Aux
from llmjax.model.cache import Cache
from llmjax.model.compute import INPUT, ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.latent_attention import LatentAttention
from llmjax.model.layer_types import LayerType
from llmjax.model.layers import ActivationSharding, Norm, dropout
from llmjax.model.linear_attention import LinearAttention
from llmjax.model.mlp import MLP
from llmjax.model.moe import MoE
from llmjax.model.self_attention import Attention, BlockContext
from llmjax.parallel import mesh


class Block(nnx.Module):
    """Attention, cross-attention if there is an encoder, and MLP, each with a residual."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        layers: int,
        layer_type: LayerType,
        cross: bool,
        rngs: nnx.Rngs,
    ):
        """`layers` of the stack scale the initial weights; `layer_type` says which parameters."""
        out_std, d = compute.init_std / (2 * layers) ** 0.5, config.d_model
        self.config, self.compute, self.cross = config, compute, cross
        if layer_type.is_linear:
            self.linear_attention = LinearAttention(config, compute, out_std=out_std, rngs=rngs)
        else:
            attention = Attention if config.mla is None else LatentAttention
            self.attention = attention(config, compute, out_std=out_std, rngs=rngs)
        self.attention_norm = Norm(config, d)
        if cross:
            self.cross_attention = Attention(config, compute, out_std=out_std, rngs=rngs)
            self.cross_attention_norm = Norm(config, d)
        self.mlp: MLP | MoE
        if layer_type.is_sparse:
            assert config.moe is not None
            self.mlp = MoE(config, config.moe, compute, out_std=out_std, rngs=rngs)
        else:
            self.mlp = MLP(config, compute, width=layer_type.mlp_width, out_std=out_std, rngs=rngs)
        if not config.shared_norm:
            self.mlp_norm = Norm(config, d)
        if config.norm_placement == "sandwich":
            self.attention_output_norm = Norm(config, d)
            self.mlp_output_norm = Norm(config, d)
            if cross:
                self.cross_attention_output_norm = Norm(config, d)

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        layer_type: LayerType,
        cache: Cache | None,
        layer: int | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, Cache | None, Aux]:
        """[B, L, D] -> [B, L, D], the updated cache, and named sums to add to the loss.

        `layer` is its number, needed only with a cache.
        """
        x = checkpoint_name(x, INPUT)
        aux: Aux = {}
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        sharding = context.sharding

        def attend(h: jax.Array) -> jax.Array:
            nonlocal cache
            attention = self.linear_attention if layer_type.is_linear else self.attention
            h, cache = attention(h, context, layer_type, cache, layer)
            return h

        def attend_encoded(h: jax.Array) -> jax.Array:
            return self.cross_attention.cross(h, context, cache, layer)

        y = self._residual(
            x, "attention", attend, sharding, keys[0], plain=not layer_type.attention_norm
        )
        if self.cross:
            y = self._residual(y, "cross_attention", attend_encoded, sharding, keys[1])

        def mlp(h: jax.Array) -> jax.Array:
            nonlocal aux
            if isinstance(self.mlp, MoE):
                segments = context.mask.query_segments
                is_token = None if segments is None else segments > 0
                h, aux = self.mlp(h, sharding, is_token, drops=cache is None)
            else:
                h, aux = self.mlp(h, sharding)
            return h

        inputs = x if self.config.parallel_residual else y
        return self._residual(y, "mlp", mlp, sharding, keys[2], inputs=inputs), cache, aux

    def _residual(
        self,
        x: jax.Array,
        name: str,
        function: Callable[[jax.Array], jax.Array],
        sharding: ActivationSharding,
        key: jax.Array | None,
        *,
        inputs: jax.Array | None = None,
        plain: bool = False,
    ) -> jax.Array:
        """Adds function(inputs) to x, with norms according to `norm_placement`.

        Args:
          x: [B, L, D], the residual stream.
          name: prefix of the norms, `name`_norm and `name`_output_norm.
          function: its input is split as `sharding.gathered()`.
          sharding: how activations are split.
          key: for dropout.
          inputs: [B, L, D]; None: x.
          plain: whether to leave out the norm before.
        """
        placement = self.config.norm_placement
        norm = self.attention_norm if self.config.shared_norm else getattr(self, f"{name}_norm")
        h = x if inputs is None else inputs
        h = norm(h) if placement in ("pre", "sandwich") and not plain else h
        h = function(mesh.reshard(h, *sharding.gathered()))
        if placement == "output":
            h = norm(h)
        elif placement == "sandwich":
            h = getattr(self, f"{name}_output_norm")(h)
        if (factor := self.config.residual_multiplier) != 1.0:
            h = h * jnp.asarray(factor, h.dtype)
        h = dropout(h, self.compute.dropout, key)
        return norm(x + h) if placement == "post" else x + h
