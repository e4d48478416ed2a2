"""One layer of a stack: attention, cross-attention if there is an encoder, MLP."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.attention import attention
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.aux_sums import Aux
from llmjax.model.cache import Cache
from llmjax.model.compute import ATTENTION, INPUT, ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_frequencies
from llmjax.model.layers import ActivationSharding, Dense, Norm, adapter, dropout
from llmjax.model.lora import Target
from llmjax.model.mlp import MLP
from llmjax.model.moe import MoE
from llmjax.model.remat import keeping
from llmjax.model.rope import FAR, rotate
from llmjax.parallel import mesh


@dataclass(frozen=True)
class BlockContext:
    """Inputs of a call that all layers of a stack share."""

    sharding: ActivationSharding
    positions: jax.Array
    """[B, L] int32."""
    mask: Mask
    """Without the window, which depends on the layer."""
    bias: jax.Array | None = None
    """[B or 1, H, L, S] float32, added to the scores of self-attention."""
    encoded: jax.Array | None = None
    """[B, E, D], the encoder's output; with a cache, None."""
    encoded_mask: Mask | None = None
    """None: this stack has no cross-attention."""
    token_types: jax.Array | None = None
    """[B, L] int32; None: all 0."""
    prefills: bool = False
    """Whether the cache is empty, so that the tokens attend only to each other."""


class Attention(nnx.Module):
    """Projections to queries, keys and values, and of attention's output."""

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, *, out_std: float, rngs: nnx.Rngs
    ):
        d, k = config.d_model, config.head_width
        self.config, self.compute = config, compute

        def project(name: Target, heads: int, axis: str) -> Dense:
            return Dense(
                (d, heads, k),
                ("embed", axis, "head_dim"),
                bias=config.qkv_bias,
                std=compute.init_std,
                precision=compute.precision,
                rngs=rngs,
                outer=2,
                lora=adapter(config, name),
                name=name,
            )

        self.query = project("query", config.num_heads, "heads")
        self.key = project("key", config.kv_heads, "kv_heads")
        self.value = project("value", config.kv_heads, "kv_heads")
        self.out = Dense(
            (config.num_heads, k, d),
            ("heads", "head_dim", "embed"),
            bias=config.attention_out_bias,
            std=out_std,
            precision=compute.precision,
            rngs=rngs,
            lora=adapter(config, "out"),
            name="out",
        )
        if config.qk_norm:
            over_heads = config.qk_norm_over == "projection"
            self.query_norm = Norm(config, *[config.num_heads] * over_heads, k, kind="rmsnorm")
            self.key_norm = Norm(config, *[config.kv_heads] * over_heads, k, kind="rmsnorm")

    def queries(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType | None = None
    ) -> jax.Array:
        """[B, L, D] -> [B, L, H, K]; rotated if there is a layer type."""
        q = self.query(x, context.sharding.heads())
        q = self.query_norm(q) if self.config.qk_norm else q
        q = self._rotate(q, context, layer_type)
        scale = self.config.attention_scale
        return q if scale is None else q * jnp.asarray(scale * q.shape[-1] ** 0.5, q.dtype)

    def keys_values(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, S, N, K] each."""
        out = context.sharding.heads("kv_heads")
        k, v = self.key(x, out), self.value(x, out)
        k = self.key_norm(k) if self.config.qk_norm else k
        return self._rotate(k, context, layer_type), v

    def _rotate(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType | None
    ) -> jax.Array:
        if layer_type is None or not layer_type.rotates:
            return x
        far = self.config.max_length > FAR
        return rotate(x, context.positions, *layer_frequencies(self.config, layer_type), far=far)

    def mix(
        self,
        q: jax.Array,
        kv: tuple[jax.Array, jax.Array],
        mask: Mask,
        sharding: ActivationSharding,
        bias: jax.Array | None = None,
        *,
        cached: bool = False,
    ) -> jax.Array:
        """Attends and projects: [B, T, H, K] -> [B, T, D], split like the residual stream."""
        softcap, backend = self.config.attention_softcap, self.compute.attention
        if cached:
            inputs = AttentionInputs(q, *kv, mask, sharding, softcap, bias)
            return self.out(attention.attend_cached(inputs, backend), sharding.stream())
        length = None if sharding.context == "gather" else sharding.length
        k, v = (mesh.reshard(x, "batch", length, "kv_heads", "head_dim") for x in kv)

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, bias: jax.Array | None
        ) -> jax.Array:
            inputs = AttentionInputs(q, k, v, mask, sharding, softcap, bias)
            return attention.attend(inputs, backend)

        if self.compute.remat == "attention":
            attend = jax.checkpoint(attend, policy=keeping(ATTENTION), prevent_cse=False)
        return self.out(attend(q, k, v, mask, bias), sharding.stream())


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
        self.attention = Attention(config, compute, out_std=out_std, rngs=rngs)
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
        sharding, cached = context.sharding, cache is not None
        steps = cached and not context.prefills

        def attend(h: jax.Array) -> jax.Array:
            nonlocal cache
            q = self.attention.queries(h, context, layer_type)
            kv = self.attention.keys_values(h, context, layer_type)
            if cache is not None:
                assert layer is not None
                if steps:
                    cache = cache.write(layer, context.positions, *kv)
                    kv = cache.read(layer)
                else:
                    cache = cache.fill(layer, *kv)
            mask = replace(context.mask, window=layer_type.window)
            return self.attention.mix(q, kv, mask, sharding, context.bias, cached=steps)

        def attend_encoded(h: jax.Array) -> jax.Array:
            assert context.encoded_mask is not None
            q = self.cross_attention.queries(h, context)
            if cache is not None:
                assert layer is not None
                kv = cache.read_encoded(layer)
            else:
                assert context.encoded is not None
                kv = self.cross_attention.keys_values(context.encoded, context)
            gathered = replace(sharding, context="gather")
            return self.cross_attention.mix(q, kv, context.encoded_mask, gathered, cached=cached)

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
                h, aux = self.mlp(h, sharding, is_token, drops=not cached)
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
