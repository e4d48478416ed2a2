"""One layer of a stack: attention, attention to the encoder where there is one, MLP."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention import attention
from llmjax.model.attention import cudnn as attention_cudnn
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_frequencies
from llmjax.model.layers import ATTENTION, ActivationSharding, Aux, Dense, Norm, adapter, dropout
from llmjax.model.lora import Target
from llmjax.model.mlp import MLP
from llmjax.model.rope import rotate
from llmjax.parallel import mesh


@dataclass(frozen=True)
class BlockContext:
    """What all layers of a stack share in one call."""

    sharding: ActivationSharding
    positions: jax.Array
    """[B, L] int32."""
    mask: Mask
    """Without a window: that is a layer's own."""
    bias: jax.Array | None = None
    """[B or 1, H, L, S] float32, added to the scores of self-attention."""
    encoded: jax.Array | None = None
    """[B, E, D], the encoder's output; with a cache it lies there."""
    encoded_mask: Mask | None = None
    """None: this stack has no cross-attention."""
    token_types: jax.Array | None = None
    """[B, L] int32, the kind of segment of each token; None: all of kind 0."""
    prefills: bool = False
    """Whether the tokens begin their rows: the cache is empty, so they see each other alone."""


class Attention(nnx.Module):
    """Projections to queries, keys and values, and back; the mixing itself is a function."""

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
                dtype=compute.dtype,
                rngs=rngs,
                outer=2,
                lora=adapter(config, name),
            )

        self.query = project("query", config.num_heads, "heads")
        self.key = project("key", config.kv_heads, "kv_heads")
        self.value = project("value", config.kv_heads, "kv_heads")
        self.out = Dense(
            (config.num_heads, k, d),
            ("heads", "head_dim", "embed"),
            bias=config.attention_out_bias,
            std=out_std,
            dtype=compute.dtype,
            rngs=rngs,
            lora=adapter(config, "out"),
        )
        if config.qk_norm:
            whole = config.qk_norm_over == "projection"
            self.query_norm = Norm(config, *[config.num_heads] * whole, k, kind="rmsnorm")
            self.key_norm = Norm(config, *[config.kv_heads] * whole, k, kind="rmsnorm")

    def queries(
        self, x: jax.Array, context: BlockContext, kind: LayerType | None = None
    ) -> jax.Array:
        """[B, L, D] -> [B, L, H, K]; without a kind, they are not rotated."""
        q = self.query(x, context.sharding.heads())
        q = self.query_norm(q) if self.config.qk_norm else q
        q = self._rotate(q, context, kind)
        scale = self.config.attention_scale
        return q if scale is None else q * jnp.asarray(scale * q.shape[-1] ** 0.5, q.dtype)

    def keys_values(
        self, x: jax.Array, context: BlockContext, kind: LayerType | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, S, N, K] each."""
        out = context.sharding.heads("kv_heads")
        k, v = self.key(x, out), self.value(x, out)
        k = self.key_norm(k) if self.config.qk_norm else k
        return self._rotate(k, context, kind), v

    def _rotate(self, x: jax.Array, context: BlockContext, kind: LayerType | None) -> jax.Array:
        if kind is None or not kind.rotates:
            return x
        return rotate(x, context.positions, *layer_frequencies(self.config, kind))

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
        """Attends and projects back: [B, T, H, K] -> [B, T, D], split like the residual stream."""
        softcap, backend = self.config.attention_softcap, self.compute.attention
        if cached:
            inputs = AttentionInputs(q, *kv, mask, sharding, softcap, bias)
            return self.out(attention.attend_cached(inputs, backend), sharding.stream())
        k, v = (mesh.reshard(x, "batch", None, "kv_heads", "head_dim") for x in kv)

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, mask: Mask, bias: jax.Array | None
        ) -> jax.Array:
            inputs = AttentionInputs(q, k, v, mask, sharding, softcap, bias)
            return attention.attend(inputs, backend)

        if self.compute.remat == "attention":
            attend = jax.checkpoint(attend, policy=keeping(ATTENTION), prevent_cse=False)
        return self.out(attend(q, k, v, mask, bias), sharding.stream())


class Block(nnx.Module):
    """Attention, cross-attention (in a decoder with an encoder) and MLP, each with its residual."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        layers: int,
        mlp_width: int,
        cross: bool,
        rngs: nnx.Rngs,
    ):
        """`layers`: of the whole stack, which scale the first weights."""
        out_std, d = compute.init_std / (2 * layers) ** 0.5, config.d_model
        self.config, self.compute, self.cross = config, compute, cross
        self.attention = Attention(config, compute, out_std=out_std, rngs=rngs)
        self.attention_norm = Norm(config, d)
        if cross:
            self.cross_attention = Attention(config, compute, out_std=out_std, rngs=rngs)
            self.cross_attention_norm = Norm(config, d)
        self.mlp = MLP(config, compute, width=mlp_width, out_std=out_std, rngs=rngs)
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
        kind: LayerType,
        cache: Cache | None,
        layer: int | None,
        key: jax.Array | None,
    ) -> tuple[jax.Array, Cache | None, Aux]:
        """[B, L, D] -> [B, L, D], the cache with this layer's keys and values, sums for the loss.

        `layer` is its number, which only a cache needs.
        """
        aux: Aux = {}
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        sharding, cached = context.sharding, cache is not None
        steps = cached and not context.prefills

        def attend(h: jax.Array) -> jax.Array:
            nonlocal cache
            q = self.attention.queries(h, context, kind)
            kv = self.attention.keys_values(h, context, kind)
            if cache is not None:
                assert layer is not None
                if steps:
                    cache = cache.write(layer, context.positions, *kv)
                    kv = cache.read(layer)
                else:
                    cache = cache.fill(layer, *kv)
            mask = replace(context.mask, window=kind.window)
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
            return self.cross_attention.mix(q, kv, context.encoded_mask, sharding, cached=cached)

        y = self._residual(x, "attention", attend, sharding, keys[0], plain=not kind.normalises)
        if self.cross:
            y = self._residual(y, "cross_attention", attend_encoded, sharding, keys[1])

        def mlp(h: jax.Array) -> jax.Array:
            nonlocal aux
            h, aux = self.mlp(h, sharding)
            return h

        read = x if self.config.parallel_residual else y
        return self._residual(y, "mlp", mlp, sharding, keys[2], read=read), cache, aux

    def _residual(
        self,
        x: jax.Array,
        name: str,
        change: Callable[[jax.Array], jax.Array],
        sharding: ActivationSharding,
        key: jax.Array | None,
        *,
        read: jax.Array | None = None,
        plain: bool = False,
    ) -> jax.Array:
        """Adds change(read) to x, with the norms where `norm_placement` says.

        Args:
          x: [B, L, D], the residual stream.
          name: of the norm: `name`_norm, and `name`_output_norm in a sandwich.
          change: sees rows as `sharding.gathered()`.
          sharding: how activations are split.
          key: for dropout.
          read: what is changed, if not x.
          plain: no norm before.
        """
        place, norm = self.config.norm_placement, getattr(self, f"{name}_norm")
        h = x if read is None else read
        h = norm(h) if place in ("pre", "sandwich") and not plain else h
        h = change(mesh.reshard(h, *sharding.gathered()))
        if place == "output":
            h = norm(h)
        elif place == "sandwich":
            h = getattr(self, f"{name}_output_norm")(h)
        h = dropout(h, self.compute.dropout, key)
        return norm(x + h) if place == "post" else x + h


def keeping(*names: str) -> Callable[..., bool]:
    """The remat policy that keeps what has one of these names, and what a fused attention keeps."""
    named = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint_policies.save_from_both_policies(named, attention_cudnn.is_forward)
