"""The Transformer: stacks of layers over one table of embeddings, and the input of the LM head."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention.mask import Mask
from llmjax.model.attention.relative import RelativeBias
from llmjax.model.block import Block, BlockContext, keeping
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig, Remat
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_pattern, layer_types
from llmjax.model.layers import (
    ATTENTION,
    DECODE,
    PRODUCT,
    ActivationSharding,
    Dense,
    Norm,
    Table,
    constant,
    dropout,
    normal,
    sinusoids,
)
from llmjax.model.mlp import ACTIVATIONS
from llmjax.parallel import mesh


class Transformer(nnx.Module):
    """An encoder, a decoder or both, over one table of token embeddings."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.config = config
        vocab, d, std = config.vocab_size, config.d_model, compute.init_std
        axes, dtype = ("vocab", "embed"), compute.dtype
        self.embedding = Table(vocab, d, axes, std=std, dtype=dtype, rngs=rngs)
        if config.num_encoder_layers:
            layers = config.num_encoder_layers
            self.encoder = Stack(config, compute, layers=layers, cross=False, rngs=rngs)
        if config.num_decoder_layers:
            layers, cross = config.num_decoder_layers, config.is_encoder_decoder
            self.decoder = Stack(config, compute, layers=layers, cross=cross, rngs=rngs)
        if config.unembed_transform:
            self.transform = Transform(config, compute, rngs=rngs)
        if config.pooler:
            self.pooler = square(config, compute, bias=True, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs, (vocab, d), axes, std)
        if config.unembed_bias:
            self.unembedding_bias = constant(0.0, (vocab,), ("vocab",))

    def embed(self, tokens: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """[B, L] int32 -> [B, L, D] in the compute dtype."""
        x = self.embedding(tokens, sharding)
        return x * jnp.asarray(self.config.d_model**0.5, x.dtype) if self.config.embed_scale else x

    def lm_head_input(self, hidden: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """[B, L, D] from the last layer -> [B, L, D], whose products with the rows are logits."""
        if self.config.unembed_transform:
            hidden = self.transform(hidden, sharding)
        scale = self.config.logit_scale
        return hidden if scale == 1.0 else hidden * jnp.asarray(scale, hidden.dtype)


class Transform(nnx.Module):
    """norm(activation(dense(x))), before the logits of a masked language model (BERT)."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.dense = square(config, compute, bias=config.mlp_bias, rngs=rngs)
        self.norm = Norm(config, config.d_model)

    def __call__(self, x: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """[B, L, D] -> [B, L, D], split as `sharding.stream()`."""
        x = self.dense(mesh.reshard(x, *sharding.whole()), sharding.stream()).astype(jnp.float32)
        return self.norm(self.activation(x).astype(self.dense.dtype))


def square(config: ModelConfig, compute: ComputeConfig, *, bias: bool, rngs: nnx.Rngs) -> Dense:
    """A projection of the residual stream onto itself."""
    d = config.d_model
    std, dtype = compute.init_std, compute.dtype
    return Dense((d, d), ("embed", None), bias=bias, std=std, dtype=dtype, rngs=rngs)


KEPT: dict[Remat, tuple[str, ...]] = {"dots": (ATTENTION, PRODUCT), "full": (ATTENTION,)}
"""What the backward pass of a layer is left with, beside the layer's input, by name."""

UNROLLED = 16
"""Layers up to which a stack is written out on a CPU, where that is faster than a scan."""


class Stack(nnx.Module):
    """Layers stacked along a leading axis and scanned, between embedding and last norm."""

    def __init__(
        self,
        config: ModelConfig,
        compute: ComputeConfig,
        *,
        layers: int,
        cross: bool,
        rngs: nnx.Rngs,
    ):
        self.config, self.compute, self.layer_types = config, compute, layer_types(config, layers)
        d = config.d_model

        def table(rows: int, axis: str | None) -> Table:
            axes, dtype = (axis, "embed"), compute.dtype
            return Table(rows, d, axes, std=compute.init_std, dtype=dtype, rngs=rngs)

        if config.positions == "learned":
            self.positions = table(config.max_length + config.first_position, "positions")
        if config.token_types:
            self.token_types = table(config.token_types, None)
        if config.positions == "relative":
            self.relative = RelativeBias(config, compute, rngs=rngs)
        if config.embed_norm:
            self.embed_norm = Norm(config, d)

        @nnx.vmap
        def stacked(key: jax.Array) -> Block:
            return Block(config, compute, layers=layers, cross=cross, rngs=nnx.Rngs(key))

        self.layers = stacked(jax.random.split(rngs.params(), layers))
        if config.norm_placement != "post":
            self.norm = Norm(config, d)

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        cache: Cache | None,
        key: jax.Array | None,
        unstacked: Sequence[Any] | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Embedded tokens [B, L, D] -> the stack's output [B, L, D], and the cache.

        `unstacked`: the layers' parameters one by one, to be used instead of the stacked ones. A
        cache is written layer by layer, so with one the layers are always written out.
        """
        x = self._place(x, context)
        if self.config.positions == "relative":
            slots = x.shape[1] if cache is None or context.prefills else cache.length
            bias = self.relative(context.mask, x.shape[1], slots, context.sharding)
            context = replace(context, bias=bias)
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        x = dropout(x, self.compute.dropout, keys[0])
        count = len(self.layer_types)
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], count)
        block, params = nnx.split(self.layers, nnx.Param)

        def body(carry: tuple, layer: tuple, kind: LayerType, number: int | None = None) -> tuple:
            params, key = layer
            return nnx.merge(block, params)(carry[0], context, kind, carry[1], number, key)

        if unstacked is None and cache is not None:
            unstacked = split_layers(params, count)
        if unstacked is not None:
            carry = (x, cache)
            for index, (params, kind) in enumerate(zip(unstacked, self.layer_types, strict=True)):
                layer_key = None if layer_keys is None else layer_keys[index]
                carry = body(carry, (params, layer_key), kind, index)
            x, cache = carry
        else:
            layers = (params, layer_keys)
            x, cache = _through(body, (x, cache), layers, self.layer_types, self.compute.remat)
        return (x if self.config.norm_placement == "post" else self.norm(x)), cache

    def _place(self, x: jax.Array, context: BlockContext) -> jax.Array:
        """Adds what the embedding of a token depends on beside the token."""
        config, sharding = self.config, context.sharding
        if config.positions == "learned":
            x = x + self.positions(context.positions + config.first_position, sharding)
        elif config.positions == "sinusoidal":
            fixed = sinusoids(context.positions, config.d_model).astype(x.dtype)
            x = x + mesh.reshard(fixed, *sharding.stream())
        if config.token_types:
            types = context.token_types
            types = jnp.zeros_like(context.positions) if types is None else types
            x = x + self.token_types(types, sharding)
        return self.embed_norm(x) if config.embed_norm else x

    def keys_values_of(
        self, encoded: jax.Array, unstacked: Sequence[Any] | None = None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """The encoder's output [B, E, D] as each layer's keys and values, [B, E, N, K]."""
        block, params = nnx.split(self.layers, nnx.Param)
        encoded = mesh.reshard(encoded, *DECODE.whole())
        context = BlockContext(DECODE, jnp.zeros(encoded.shape[:2], jnp.int32), Mask())

        layers = split_layers(params, len(self.layer_types)) if unstacked is None else unstacked
        blocks = (nnx.merge(block, layer) for layer in layers)
        return [block.cross_attention.keys_values(encoded, context) for block in blocks]


Body = Callable[[tuple, tuple, LayerType], tuple]
"""(carry, layer, kind) -> carry."""


def _through(
    body: Body, carry: tuple, layers: tuple, kinds: tuple[LayerType, ...], remat: Remat
) -> tuple:
    """Takes the carry through all layers: a scan, which compiles one period of them for all.

    On a CPU a few layers are written out instead: there a scan copies each layer's weights out of
    the stack and its activations into one, which takes a fifth of a training step.
    """
    count, (head, period, repeats) = len(kinds), layer_pattern(kinds)
    if mesh.platform() == "cpu" and count <= UNROLLED:
        head, repeats = count, 0
    end = head + period * repeats
    carry = _written_out(body, carry, layers, kinds, remat, (0, head))
    if repeats:

        def whole_period(carry: tuple, layers: tuple) -> tuple[tuple, None]:
            for i in range(period):
                layer = layers if period == 1 else jax.tree.map(lambda leaf, i=i: leaf[i], layers)
                carry = _remat(body, kinds[head + i], remat, prevent_cse=False)(carry, layer)
            return carry, None

        if (period, repeats) != (1, count):
            shape = (repeats, period) if period > 1 else (repeats,)
            layers_of = lambda leaf: leaf[head:end].reshape(*shape, *leaf.shape[1:])  # noqa: E731
            periods = jax.tree.map(layers_of, layers)
        else:
            periods = layers
        carry, _ = jax.lax.scan(whole_period, carry, periods)
    return _written_out(body, carry, layers, kinds, remat, (end, count))


def _written_out(
    body: Body,
    carry: tuple,
    layers: tuple,
    kinds: tuple[LayerType, ...],
    remat: Remat,
    between: tuple[int, int],
) -> tuple:
    """The layers from one number to another, each with its own place in the program."""
    start, end = between
    if start == end:
        return carry
    some = jax.tree.map(lambda leaf: leaf[start:end], layers)
    for kind, layer in zip(kinds[start:end], split_layers(some, end - start), strict=True):
        carry = _remat(body, kind, remat, prevent_cse=True)(carry, layer)
    return carry


def split_layers(stacked: Any, count: int) -> list[Any]:
    """Trees of one layer each, out of a tree whose leaves have a leading axis of `count` layers."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [part[0] for part in parts]) for parts in zip(*split, strict=True)
    ]


def _remat(
    body: Body, kind: LayerType, remat: Remat, *, prevent_cse: bool
) -> Callable[[tuple, tuple], tuple]:
    """`prevent_cse` where forward and backward pass are one program, which could join the two."""

    def one(carry: tuple, layer: tuple) -> tuple:
        return body(carry, layer, kind)

    if remat not in KEPT:
        return one
    return jax.checkpoint(one, policy=keeping(*KEPT[remat]), prevent_cse=prevent_cse)
