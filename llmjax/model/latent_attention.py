"""Multi-head latent attention of a layer (arXiv:2405.04434, section 2.1)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention.absorbed import attend_absorbed
from llmjax.model.attention.attention import SMALL
from llmjax.model.attention.blocked import blocked
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType
from llmjax.model.layers import ActivationSharding, Dense, Norm, adapter
from llmjax.model.lora import Target
from llmjax.model.rope import score_factor
from llmjax.model.self_attention import BlockContext, attend, rotated
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes


class LatentAttention(nnx.Module):
    """Queries, keys and values from compressed vectors, and a key for positions that all heads
    share.

    In training, and for prompts, keys and values are projected for each head, and attention is that
    of any model, with values of their own width. A step of decoding reads the compressed vectors.
    """

    def __init__(
        self, config: ModelConfig, compute: ComputeConfig, *, out_std: float, rngs: nnx.Rngs
    ):
        assert config.mla is not None
        d, heads, mla = config.d_model, config.num_heads, config.mla
        self.config, self.compute, self.mla = config, compute, mla

        def project(
            name: Target, shape: tuple[int, ...], axes: Axes, *, bias: bool, std: float
        ) -> Dense:
            return Dense(
                shape,
                axes,
                bias=bias,
                std=std,
                precision=compute.precision,
                rngs=rngs,
                outer=2 if axes[1] == "heads" else 1,
                lora=adapter(config, name),
                name=name,
            )

        def down(name: Target, width: int) -> Dense:
            shape, bias = (d, width), config.qkv_bias
            return project(name, shape, ("embed", None), bias=bias, std=compute.init_std)

        def up(name: Target, inner: int, width: int) -> Dense:
            shape, axes = (inner, heads, width), ("embed", "heads", "head_dim")
            return project(name, shape, axes, bias=False, std=compute.init_std)

        if mla.query_rank is not None:
            self.query_down = down("query_down", mla.query_rank)
            self.query_norm = self._norm(mla.query_rank)
        self.query = up("query", mla.query_rank or d, mla.head_width)
        self.kv_down = down("kv_down", mla.kv_rank)
        self.kv_norm = self._norm(mla.kv_rank)
        self.key_rope = down("key_rope", mla.rope_head_dim)
        self.key = up("key", mla.kv_rank, mla.nope_head_dim)
        self.value = up("value", mla.kv_rank, mla.value_head_dim)
        self.out = project(
            "out",
            (heads, mla.value_head_dim, d),
            ("heads", "head_dim", "embed"),
            bias=config.attention_out_bias,
            std=out_std,
        )

    def _norm(self, width: int) -> Norm:
        config = replace(self.config, norm_epsilon=self.mla.norm_epsilon)
        return Norm(config, width, kind="rmsnorm")

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        layer_type: LayerType,
        cache: Cache | None,
        layer: int | None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `Attention`: [B, L, D] -> [B, L, D], and the cache."""
        sharding, steps = context.sharding, cache is not None and not context.prefills
        mask = context.mask_of(layer_type, cache.length if cache is not None and steps else None)
        nope, rope = self._queries(x, context, layer_type)
        rope_key, vectors = self._compressed(x, context, layer_type)
        if cache is None or context.prefills:
            if cache is not None:
                assert layer is not None
                cache = cache.fill(layer, rope_key, vectors[:, :, None])
            q = jnp.concatenate([nope, rope], -1)
            k, v = self._expanded(rope_key, vectors, sharding)
            inputs = AttentionInputs(q, k, v, mask, sharding, self.config.attention_softcap)
            return self.out(attend(inputs, self.compute), sharding.stream()), cache
        assert layer is not None
        cache = cache.write(layer, context.positions, rope_key, vectors[:, :, None])
        out = self._step((nope, rope), cache, layer, mask, context)
        return self.out(out, sharding.stream()), cache

    def _queries(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType
    ) -> tuple[jax.Array, jax.Array]:
        """[B, L, D] -> [B, L, H, nope] and rotated [B, L, H, rope], scaled so that attention's own
        scale makes them what the config says."""
        mla, config = self.mla, self.config
        if mla.query_rank is not None:
            x = self.query_norm(self.query_down(x, context.sharding.gathered()))
        q = self.query(x, context.sharding.heads())
        scale = config.attention_scale or mla.head_width**-0.5
        scale *= score_factor(config.rope_scaling) * mla.head_width**0.5
        q = q if scale == 1.0 else q * jnp.asarray(scale, q.dtype)
        nope, rope = jnp.split(q, [mla.nope_head_dim], -1)
        return nope, rotated(rope, config, context, layer_type)

    def _compressed(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType
    ) -> tuple[jax.Array, jax.Array]:
        """[B, L, D] -> the rotated key [B, L, 1, rope], and compressed vectors [B, L, C]."""
        whole = context.sharding.gathered()
        key = self.key_rope(x, whole)[:, :, None]
        key = rotated(key, self.config, context, layer_type)
        return key, self.kv_norm(self.kv_down(x, whole))

    def _expanded(
        self, rope_key: jax.Array, vectors: jax.Array, sharding: ActivationSharding
    ) -> tuple[jax.Array, jax.Array]:
        """Keys [B, S, H, nope + rope] and values [B, S, H, V] of compressed vectors."""
        nope, v = (project(vectors, sharding.heads()) for project in (self.key, self.value))
        shape = (*nope.shape[:3], rope_key.shape[-1])
        out = mesh.out_sharding(*sharding.heads())
        shared = jnp.broadcast_to(rope_key, shape, out_sharding=out)
        return jnp.concatenate([nope, shared], -1), v

    def _step(
        self,
        queries: tuple[jax.Array, jax.Array],
        cache: Cache,
        layer: int,
        mask: Mask,
        context: BlockContext,
    ) -> jax.Array:
        """Attention to the cache, [B, T, H, V]; of long prompts in blocks, to expanded keys."""
        softcap = self.config.attention_softcap
        keys, vectors = cache.read(layer)
        tokens = queries[0].shape[1]
        if self.compute.attention != "reference" and tokens > 1 and tokens * cache.length > SMALL:
            k, v = self._expanded(keys.transpose(0, 3, 1, 2), vectors[:, 0], context.sharding)
            q = jnp.concatenate(queries, -1)
            k, v = k.astype(q.dtype), v.astype(q.dtype)
            return blocked(AttentionInputs(q, k, v, mask, context.sharding, softcap))
        weights = self.key.weight(), self.value.weight()
        scale = jnp.asarray(self.mla.head_width**-0.5, queries[0].dtype)
        nope, rope = (q * scale for q in queries)
        return attend_absorbed((nope, rope), (keys, vectors), weights, mask, softcap)
