"""Self-attention and cross-attention of a layer: projections, rotation, and the cache."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention import attention
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.cache import Cache
from llmjax.model.compute import ATTENTION, ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_frequencies, layer_short_frequencies
from llmjax.model.layers import ActivationSharding, Dense, Norm, adapter, normal, normalized
from llmjax.model.lora import Target
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
    is_long: jax.Array | None = None
    """[B, L] bool, whether a token's text is longer than the original training length, in models
    where that decides how positions rotate."""
    prefills: bool = False
    """Whether the cache is empty, so that the tokens attend only to each other."""

    def mask_of(self, layer_type: LayerType, slots: int | None = None) -> Mask:
        """The mask of self-attention in a layer; `slots`: of the cache, if it holds the keys."""
        mask = replace(self.mask, window=layer_type.window)
        if not layer_type.in_chunks:
            return mask
        return mask.in_chunks(self.positions, self.sharding.length, slots)


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
        if config.attention_gate:
            self.output_gate = project("output_gate", config.num_heads, "heads")
        if config.attention_sinks:
            self.sinks = normal(rngs, (config.num_heads,), ("heads",), compute.init_std)
        self.learned_norms = config.qk_norm and config.qk_norm_over != "rotated"
        if self.learned_norms:
            each = config.qk_norm_over == "head"
            over = None if config.qk_norm_over == "projection" else 1
            query, key = (
                Norm(config, *[] if each else [n], k, kind=config.qk_norm_kind, over=over)
                for n in (config.num_heads, config.kv_heads)
            )
            self.query_norm, self.key_norm = query, key

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        layer_type: LayerType,
        cache: Cache | None,
        layer: int | None,
    ) -> tuple[jax.Array, Cache | None]:
        """Self-attention, [B, L, D] -> [B, L, D] split like the residual stream, and the cache.

        `layer` is its number, needed only with a cache.
        """
        q, kv = self.queries(x, context, layer_type), self.keys_values(x, context, layer_type)
        steps = cache is not None and not context.prefills
        if cache is not None:
            assert layer is not None
            if steps:
                cache = cache.write(layer, context.positions, *kv)
                kv = cache.read(layer)
            else:
                cache = cache.fill(layer, *kv)
        mask = context.mask_of(layer_type, cache.length if cache is not None and steps else None)
        gate = self.output_gate(x, context.sharding.heads()) if self.config.attention_gate else None
        bias = context.bias
        return self.mix(q, kv, mask, context.sharding, bias, gate, cached=steps), cache

    def cross(
        self, x: jax.Array, context: BlockContext, cache: Cache | None, layer: int | None
    ) -> jax.Array:
        """As a call, of the encoder's output, which a cache has keys and values of."""
        assert context.encoded_mask is not None
        q = self.queries(x, context)
        if cache is not None:
            assert layer is not None
            kv = cache.read_encoded(layer)
        else:
            assert context.encoded is not None
            kv = self.keys_values(context.encoded, context)
        gathered = replace(context.sharding, context="gather")
        return self.mix(q, kv, context.encoded_mask, gathered, cached=cache is not None)

    def queries(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType | None = None
    ) -> jax.Array:
        """[B, L, D] -> [B, L, H, K]; rotated if there is a layer type."""
        q = self.query(x, context.sharding.heads())
        q = self.query_norm(q) if self.learned_norms else q
        q = rotated(q, self.config, context, layer_type)
        if self.config.query_growth and layer_type is not None and not layer_type.rotates:
            q = _grown(q, context.positions, self.config)
        scale = self.config.attention_scale
        return q if scale is None else q * jnp.asarray(scale * q.shape[-1] ** 0.5, q.dtype)

    def keys_values(
        self, x: jax.Array, context: BlockContext, layer_type: LayerType | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, S, N, K] each."""
        out = context.sharding.heads("kv_heads")
        k, v = self.key(x, out), self.value(x, out)
        k = self.key_norm(k) if self.learned_norms else k
        return rotated(k, self.config, context, layer_type), v

    def _sinks(self, rows: int) -> jax.Array | None:
        """[B, H] float32, of `rows` rows."""
        if not self.config.attention_sinks:
            return None
        sinks = self.sinks[...].astype(jnp.float32)
        spec = mesh.out_sharding("batch", "heads")
        return jnp.broadcast_to(sinks, (rows, sinks.shape[0]), out_sharding=spec)

    def mix(
        self,
        q: jax.Array,
        kv: tuple[jax.Array, jax.Array],
        mask: Mask,
        sharding: ActivationSharding,
        bias: jax.Array | None = None,
        gate: jax.Array | None = None,
        *,
        cached: bool = False,
    ) -> jax.Array:
        """Attends and projects: [B, T, H, K] -> [B, T, D], split like the residual stream.

        `gate`: [B, T, H, K], whose sigmoid multiplies the output.
        """
        softcap = self.config.attention_softcap
        inputs = AttentionInputs(q, *kv, mask, sharding, softcap, bias, self._sinks(q.shape[0]))
        if cached:
            out = attention.attend_cached(inputs, self.compute.attention)
        else:
            out = attend(inputs, self.compute)
        if gate is not None:
            out = out * jax.nn.sigmoid(gate.astype(jnp.float32)).astype(out.dtype)
        return self.out(out, sharding.stream())


def attend(inputs: AttentionInputs, compute: ComputeConfig) -> jax.Array:
    """Attention in training, [B, T, H, V]; keys and values are gathered where devices need all."""
    sharding = inputs.sharding
    length = None if sharding.context == "gather" else sharding.length
    k, v = (mesh.reshard(x, "batch", length, "kv_heads", "head_dim") for x in inputs[1:3])

    def run(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: Mask,
        bias: jax.Array | None,
        sinks: jax.Array | None,
    ) -> jax.Array:
        arrays = inputs._replace(q=q, k=k, v=v, mask=mask, bias=bias, sinks=sinks)
        return attention.attend(arrays, compute.attention)

    if compute.remat == "attention":
        run = jax.checkpoint(run, policy=keeping(ATTENTION), prevent_cse=False)
    return run(inputs.q, k, v, inputs.mask, inputs.bias, inputs.sinks)


def rotated(
    x: jax.Array, config: ModelConfig, context: BlockContext, layer_type: LayerType | None
) -> jax.Array:
    """Queries or keys [B, L, H, K], rotated to the positions if the layer type says so."""
    if layer_type is None or not layer_type.rotates:
        return x
    far, interleaved = config.max_length > FAR, config.rope_interleaved
    x = rotate(
        x,
        context.positions,
        *layer_frequencies(config, layer_type),
        far=far,
        interleaved=interleaved,
        short=layer_short_frequencies(config, layer_type),
        is_long=context.is_long,
    )
    if not config.qk_norm or config.qk_norm_over != "rotated":
        return x
    return normalized(x, config.norm_epsilon).astype(x.dtype)


def _grown(q: jax.Array, positions: jax.Array, config: ModelConfig) -> jax.Array:
    """Queries [B, L, H, K], larger at later positions, as `ModelConfig.query_growth` says."""
    steps = ((positions + 1) // config.query_growth_length).astype(jnp.float32)
    factor = 1.0 + config.query_growth * jnp.log1p(steps)
    return (q.astype(jnp.float32) * factor[..., None, None]).astype(q.dtype)
