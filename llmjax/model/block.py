"""One layer of a stack: attention, attention to the encoder where there is one, MLP."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
from flax import nnx

from llmjax import mesh
from llmjax.model import attention
from llmjax.model.cache import Cache
from llmjax.model.config import ModelConfig
from llmjax.model.layers import ATTENTION, Dense, Layout, Norm, dropout, rotate
from llmjax.model.mask import Mask
from llmjax.model.mlp import MLP


@dataclass(frozen=True)
class Scope:
    """What all layers of a stack share in one call."""

    layout: Layout
    positions: jax.Array
    """[B, L] int32."""
    mask: Mask
    encoded: jax.Array | None = None
    """[B, E, D], the encoder's output; with a cache it lies there."""
    encoded_mask: Mask | None = None
    """None: this stack has no cross-attention."""


class Attention(nnx.Module):
    """Projections to queries, keys and values, and back; the mixing itself is a function."""

    def __init__(self, config: ModelConfig, *, out_std: float, rngs: nnx.Rngs, rotary: bool):
        d, k = config.d_model, config.head_width
        self.config, self.rotary = config, rotary

        def project(heads: int, axis: str) -> Dense:
            shape, axes = (d, heads, k), ("embed", axis, "head_dim")
            std, dtype, bias = config.init_std, config.compute_dtype, config.qkv_bias
            return Dense(shape, axes, bias=bias, std=std, dtype=dtype, rngs=rngs, outer=2)

        self.query = project(config.num_heads, "heads")
        self.key = project(config.kv_heads, "kv_heads")
        self.value = project(config.kv_heads, "kv_heads")
        self.out = Dense(
            (config.num_heads, k, d),
            ("heads", "head_dim", "embed"),
            bias=config.attention_out_bias,
            std=out_std,
            dtype=config.compute_dtype,
            rngs=rngs,
        )
        if config.qk_norm:
            self.query_norm = Norm(config, k, kind="rmsnorm")
            self.key_norm = Norm(config, k, kind="rmsnorm")

    def queries(self, x: jax.Array, scope: Scope) -> jax.Array:
        """[B, L, D] -> [B, L, H, K]."""
        q = self.query(x, scope.layout.heads())
        q = self.query_norm(q) if self.config.qk_norm else q
        return rotate(q, scope.positions, self.config.rope_theta) if self.rotary else q

    def keys_values(self, x: jax.Array, scope: Scope) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, S, N, K] each."""
        out = scope.layout.heads("kv_heads")
        k, v = self.key(x, out), self.value(x, out)
        k = self.key_norm(k) if self.config.qk_norm else k
        return (rotate(k, scope.positions, self.config.rope_theta) if self.rotary else k), v

    def mix(
        self, q: jax.Array, kv: tuple[jax.Array, jax.Array], mask: Mask, layout: Layout
    ) -> jax.Array:
        """Attends and projects back: [B, T, H, K] -> [B, T, D], split like the residual stream."""
        k, v = (mesh.reshard(x, "batch", None, "kv_heads", "head_dim") for x in kv)
        attend: Callable[..., jax.Array] = partial(
            attention.attend,
            softcap=self.config.attention_softcap,
            backend=self.config.attention,
            layout=layout,
        )
        if self.config.remat == "attention":
            kept = jax.checkpoint_policies.save_only_these_names(ATTENTION)
            attend = jax.checkpoint(attend, policy=kept, prevent_cse=False)
        return self.out(attend(q, k, v, mask), layout.stream())


class Block(nnx.Module):
    """Attention, cross-attention (in a decoder with an encoder) and MLP, each with its residual."""

    def __init__(self, config: ModelConfig, *, layers: int, cross: bool, rngs: nnx.Rngs):
        out_std = config.init_std / (2 * layers) ** 0.5
        self.config, self.cross = config, cross
        rotary = config.positions == "rotary"
        self.attention = Attention(config, out_std=out_std, rngs=rngs, rotary=rotary)
        self.attention_norm = Norm(config, config.d_model)
        if cross:
            self.cross_attention = Attention(config, out_std=out_std, rngs=rngs, rotary=False)
            self.cross_attention_norm = Norm(config, config.d_model)
        self.mlp = MLP(config, out_std=out_std, rngs=rngs)
        self.mlp_norm = Norm(config, config.d_model)

    def __call__(
        self,
        x: jax.Array,
        scope: Scope,
        cache: Cache | None,
        layer: jax.Array,
        key: jax.Array | None,
    ) -> tuple[jax.Array, Cache | None]:
        """[B, L, D] -> [B, L, D], and the cache with this layer's keys and values written."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        layout = scope.layout

        def attend(h: jax.Array) -> jax.Array:
            nonlocal cache
            q, kv = self.attention.queries(h, scope), self.attention.keys_values(h, scope)
            if cache is not None:
                cache = cache.write(layer, scope.positions, *kv)
                kv = cache.read(layer)
            return self.attention.mix(q, kv, scope.mask, layout)

        def attend_encoded(h: jax.Array) -> jax.Array:
            assert scope.encoded_mask is not None
            q = self.cross_attention.queries(h, scope)
            if cache is not None:
                kv = cache.read_encoded(layer)
            else:
                assert scope.encoded is not None
                kv = self.cross_attention.keys_values(scope.encoded, scope)
            return self.cross_attention.mix(q, kv, scope.encoded_mask, layout)

        x = self._residual(x, self.attention_norm, attend, layout, keys[0])
        if self.cross:
            x = self._residual(x, self.cross_attention_norm, attend_encoded, layout, keys[1])
        x = self._residual(x, self.mlp_norm, lambda h: self.mlp(h, layout), layout, keys[2])
        return x, cache

    def _residual(
        self,
        x: jax.Array,
        norm: Norm,
        change: Callable[[jax.Array], jax.Array],
        layout: Layout,
        key: jax.Array | None,
    ) -> jax.Array:
        """x + change(norm(x)), or norm(x + change(x)); the change sees rows as `layout.whole()`."""
        before = self.config.norm_placement == "pre"
        h = norm(x) if before else x
        h = dropout(change(mesh.reshard(h, *layout.whole())), self.config.dropout, key)
        return x + h if before else norm(x + h)
