"""Stacks of layers, and the Transformer made of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax import mesh
from llmjax.model.block import Block, Scope
from llmjax.model.cache import Cache
from llmjax.model.config import ModelConfig, Remat
from llmjax.model.embedding import Table
from llmjax.model.layers import (
    ATTENTION,
    PRODUCT,
    STEPS,
    Layout,
    Norm,
    constant,
    dropout,
    normal,
    sinusoids,
)
from llmjax.model.mask import Mask

KEPT: dict[Remat, tuple[str, ...]] = {"dots": (ATTENTION, PRODUCT), "full": (ATTENTION,)}
"""What the backward pass of a layer is left with, beside the layer's input, by name."""

UNROLLED = 16
"""Layers up to which a stack is written out on a CPU, where that is faster than a scan."""


class Stack(nnx.Module):
    """Positions, layers that share one shape (stacked and scanned), and the last norm."""

    def __init__(self, config: ModelConfig, *, layers: int, cross: bool, rngs: nnx.Rngs):
        self.config, self.num_layers = config, layers
        d = config.d_model
        if config.positions == "learned":
            self.positions = Table(
                config.max_length,
                d,
                ("positions", "embed"),
                std=config.init_std,
                dtype=config.compute_dtype,
                rngs=rngs,
            )
        if config.embed_norm:
            self.embed_norm = Norm(config, d)

        @nnx.vmap
        def stacked(key: jax.Array) -> Block:
            return Block(config, layers=layers, cross=cross, rngs=nnx.Rngs(key))

        self.layers = stacked(jax.random.split(rngs.params(), layers))
        if config.norm_placement == "pre":
            self.norm = Norm(config, d)

    def __call__(
        self, x: jax.Array, scope: Scope, cache: Cache | None, key: jax.Array | None
    ) -> tuple[jax.Array, Cache | None]:
        """Embedded tokens [B, L, D] -> the stack's output [B, L, D], and the cache."""
        config, layout = self.config, scope.layout
        if config.positions == "learned":
            x = x + self.positions(scope.positions, layout)
        elif config.positions == "sinusoidal":
            fixed = sinusoids(scope.positions, config.d_model).astype(x.dtype)
            x = x + mesh.reshard(fixed, *layout.stream())
        if config.embed_norm:
            x = self.embed_norm(x)
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        x = dropout(x, config.dropout, keys[0])
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], self.num_layers)
        block, params = nnx.split(self.layers, nnx.Param)

        def body(carry: tuple, layer: tuple) -> tuple[tuple, None]:
            params, index, key = layer
            return nnx.merge(block, params)(carry[0], scope, carry[1], index, key), None

        layers = (params, jnp.arange(self.num_layers), layer_keys)
        x, cache = _through(body, (x, cache), layers, self.num_layers, config.remat)
        return (self.norm(x) if config.norm_placement == "pre" else x), cache

    def keys_values_of(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The encoder's output [B, E, D] as each layer's keys and values, [layers, B, E, N, K]."""
        block, params = nnx.split(self.layers, nnx.Param)
        encoded = mesh.reshard(encoded, *STEPS.whole())
        scope = Scope(STEPS, jnp.zeros(encoded.shape[:2], jnp.int32), Mask())

        def one(_: None, params: nnx.State) -> tuple[None, tuple[jax.Array, jax.Array]]:
            cross = nnx.merge(block, params).cross_attention
            return None, cross.keys_values(encoded, scope)

        return jax.lax.scan(one, None, params)[1]


def _through(body: Callable, carry: tuple, layers: tuple, count: int, remat: Remat) -> tuple:
    """Scans over the layers, which compiles one of them for all.

    On a CPU a few layers are written out instead: there a scan copies each layer's weights out of
    the stack and its activations into one, which takes a fifth of a training step.
    """
    if mesh.platform() != "cpu" or count > UNROLLED or carry[1] is not None:
        return jax.lax.scan(_remat(body, remat), carry, layers)[0]
    body = _remat(body, remat, prevent_cse=True)
    leaves, tree = jax.tree.flatten(layers)
    split = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    for parts in zip(*split, strict=True):
        carry, _ = body(carry, jax.tree.unflatten(tree, [part[0] for part in parts]))
    return carry


def _remat(body: Callable, remat: Remat, *, prevent_cse: bool = False) -> Callable:
    """`prevent_cse` where forward and backward pass are one program, which could join the two."""
    if remat not in KEPT:
        return body
    policy = jax.checkpoint_policies.save_only_these_names(*KEPT[remat])
    return jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)


class Transformer(nnx.Module):
    """An encoder, a decoder or both, over one table of token embeddings."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        vocab, d, std = config.vocab_size, config.d_model, config.init_std
        axes, dtype = ("vocab", "embed"), config.compute_dtype
        self.embedding = Table(vocab, d, axes, std=std, dtype=dtype, rngs=rngs)
        if config.num_encoder_layers:
            layers = config.num_encoder_layers
            self.encoder = Stack(config, layers=layers, cross=False, rngs=rngs)
        if config.num_decoder_layers:
            layers, cross = config.num_decoder_layers, config.is_encoder_decoder
            self.decoder = Stack(config, layers=layers, cross=cross, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs, (vocab, d), axes, std)
        if config.unembed_bias:
            self.unembedding_bias = constant(0.0, (vocab,), ("vocab",))

    def embed(self, tokens: jax.Array, layout: Layout) -> jax.Array:
        """[B, L] int32 -> [B, L, D] in the compute dtype."""
        x = self.embedding(tokens, layout)
        return x * jnp.asarray(self.config.d_model**0.5, x.dtype) if self.config.embed_scale else x
