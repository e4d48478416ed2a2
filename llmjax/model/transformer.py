"""The Transformer: token embedding, stacks of layers, and the input of the LM head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmjax.model.activations import ACTIVATIONS
from llmjax.model.attention.mask import Mask
from llmjax.model.attention.relative import RelativeBias
from llmjax.model.aux_sums import Aux, add_aux
from llmjax.model.block import Block
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_loop import LayerLoop, split_layers
from llmjax.model.layer_types import LayerType, group_of, layer_groups, layer_types
from llmjax.model.layers import (
    DECODE,
    ActivationSharding,
    Dense,
    Norm,
    Table,
    constant,
    dropout,
    normal,
    sinusoids,
)
from llmjax.model.remat import layer_policy
from llmjax.model.self_attention import BlockContext
from llmjax.model.stages import num_stages, run_stages
from llmjax.parallel import mesh


class Transformer(nnx.Module):
    """An encoder, a decoder or both, with one table of token embeddings."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.config = config
        vocab, d, std = config.vocab_size, config.d_model, compute.init_std
        axes, precision = ("vocab", "embed"), compute.precision
        self.embedding = Table(vocab, d, axes, std=std, precision=precision, rngs=rngs)
        if config.num_encoder_layers:
            layers = config.num_encoder_layers
            self.encoder = Stack(config, compute, layers=layers, cross=False, rngs=rngs)
        if config.num_decoder_layers:
            layers, cross = config.num_decoder_layers, config.is_encoder_decoder
            self.decoder = Stack(config, compute, layers=layers, cross=cross, rngs=rngs)
        if config.lm_head_transform:
            self.transform = Transform(config, compute, rngs=rngs)
        if config.pooler:
            self.pooler = square(config, compute, bias=True, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs, (vocab, d), axes, std, (-1,))
        if config.lm_head_bias:
            self.unembedding_bias = constant(0.0, (vocab,), ("vocab",))

    multi_token: Any
    """A `MultiTokenModule` where the config has one; only training uses it."""

    def embed(self, tokens: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """[B, L] int32 -> [B, L, D] in the compute dtype."""
        x, config = self.embedding(tokens, sharding), self.config
        factor = config.embed_multiplier * (config.d_model**0.5 if config.embed_scale else 1.0)
        return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)

    def lm_head_input(self, hidden: jax.Array, sharding: ActivationSharding) -> jax.Array:
        """Maps the last layer's states to the input of the LM head, [B, L, D] -> [B, L, D]."""
        if self.config.lm_head_transform:
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
        x = self.dense(mesh.reshard(x, *sharding.gathered()), sharding.stream()).astype(jnp.float32)
        return self.norm(self.activation(x).astype(self.dense.precision.dtype))


def square(config: ModelConfig, compute: ComputeConfig, *, bias: bool, rngs: nnx.Rngs) -> Dense:
    """Creates a projection from the residual stream to the residual stream."""
    d = config.d_model
    std, precision = compute.init_std, compute.precision
    return Dense((d, d), ("embed", None), bias=bias, std=std, precision=precision, rngs=rngs)


class Stack(nnx.Module):
    """Position embeddings, layers stacked along a leading axis, and the final norm."""

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
            axes, precision = (axis, "embed"), compute.precision
            return Table(rows, d, axes, std=compute.init_std, precision=precision, rngs=rngs)

        if config.positions == "learned":
            self.positions = table(config.max_length + config.first_position, "positions")
        if config.token_types:
            self.token_types = table(config.token_types, None)
        if config.positions == "relative":
            self.relative = RelativeBias(config, compute, rngs=rngs)
        if config.embed_norm:
            self.embed_norm = Norm(config, d)

        def stacked(keys: jax.Array, layer_type: LayerType) -> Block:
            if num_stages() > 1:  # each stage draws its own layers
                keys = mesh.reshard(keys, "layers")

            def block(key: jax.Array) -> Block:
                rngs = nnx.Rngs(key)
                return Block(
                    config, compute, layers=layers, layer_type=layer_type, cross=cross, rngs=rngs
                )

            return nnx.vmap(block)(keys)

        keys = jax.random.split(rngs.params(), layers)
        self.groups = layer_groups(self.layer_types)
        for name, numbers in self.groups.items():
            layer_type = self.layer_types[numbers[0]]
            setattr(self, name, stacked(self._group_keys(keys, name), layer_type))
        if config.norm_placement != "post":
            self.norm = Norm(config, d)

    def __call__(
        self,
        x: jax.Array,
        context: BlockContext,
        cache: Cache | None,
        key: jax.Array | None,
        unstacked: Mapping[str, Sequence[Any]] | None = None,
    ) -> tuple[jax.Array, Cache | None, Aux]:
        """Embedded tokens [B, L, D] -> the stack's output [B, L, D], the cache, the layers' sums.

        `unstacked` parameters of each group replace the stacked ones. With a cache, which is
        updated layer by layer, layers are always unrolled.
        """
        x = self._embed_positions(x, context)
        if self.config.positions == "relative":
            slots = x.shape[1] if cache is None or context.prefills else cache.length
            bias = self.relative(context.mask, x.shape[1], slots, context.sharding)
            context = replace(context, bias=bias)
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        x = dropout(x, self.compute.dropout, keys[0])
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], len(self.layer_types))
        graphs, params = self._split()
        body = self._body(context, graphs)
        if unstacked is None and cache is None and num_stages() > 1:
            groups = {name: (self.groups[name], part) for name, part in params.items()}
            body_of = partial(self._body, graphs=graphs)
            types = self.layer_types
            x, aux = run_stages(body_of, context, self.compute, types, groups, x, layer_keys)
        elif unstacked is None and cache is None:
            stacked = {
                name: (part, None if layer_keys is None else self._group_keys(layer_keys, name))
                for name, part in params.items()
            }
            loop = LayerLoop(body, self.layer_types, self.groups, layer_policy(self.compute))
            (x, cache), aux = loop.run((x, cache), stacked)
        else:
            carry, aux = (x, cache), {}
            for number, layer in enumerate(self._layers(params, unstacked)):
                layer_key = None if layer_keys is None else layer_keys[number]
                carry, more = body(carry, (layer, layer_key), number, number)
                aux = add_aux(aux, more)
            x, cache = carry
        return (x if self.config.norm_placement == "post" else self.norm(x)), cache, aux

    def _body(self, context: BlockContext, graphs: Mapping[str, nnx.GraphDef]) -> Callable:
        """A layer of these rows, as `LayerLoop.body`; its index is needed only with a cache."""

        def body(
            carry: tuple, layer: tuple, number: int, index: int | None = None
        ) -> tuple[tuple, Aux]:
            block = nnx.merge(graphs[group_of(self.groups, number)], layer[0])
            layer_type = self.layer_types[number]
            x, cache, aux = block(carry[0], context, layer_type, carry[1], index, layer[1])
            return (x, cache), aux

        return body

    def _group_keys(self, keys: jax.Array, group: str) -> jax.Array:
        """Selects the keys of a group's layers."""
        return keys if len(self.groups) == 1 else keys[np.array(self.groups[group])]

    def _split(self) -> tuple[dict[str, nnx.GraphDef], dict[str, Any]]:
        """Splits each group into its module's graph and its stacked parameters."""
        parts = {name: nnx.split(getattr(self, name), nnx.Param) for name in self.groups}
        return (
            {name: graph for name, (graph, _) in parts.items()},
            {name: params for name, (_, params) in parts.items()},
        )

    def _layers(
        self, params: Mapping[str, Any], unstacked: Mapping[str, Sequence[Any]] | None
    ) -> list[Any]:
        """Returns the parameters of each layer, in order."""
        if unstacked is None:
            sizes = {name: len(numbers) for name, numbers in self.groups.items()}
            unstacked = {name: split_layers(params[name], size) for name, size in sizes.items()}
        layers: dict[int, Any] = {}
        for name, numbers in self.groups.items():
            layers |= dict(zip(numbers, unstacked[name], strict=True))
        return [layers[number] for number in range(len(self.layer_types))]

    def _embed_positions(self, x: jax.Array, context: BlockContext) -> jax.Array:
        """Adds position and token type embeddings."""
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
        self, encoded: jax.Array, unstacked: Mapping[str, Sequence[Any]] | None = None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """Projects the encoder's output [B, E, D] to each layer's keys and values, [B, E, N, K]."""
        graphs, params = self._split()
        encoded = mesh.reshard(encoded, *DECODE.gathered())
        context = BlockContext(DECODE, jnp.zeros(encoded.shape[:2], jnp.int32), Mask())
        blocks = (
            nnx.merge(graphs[group_of(self.groups, number)], layer)
            for number, layer in enumerate(self._layers(params, unstacked))
        )
        return [block.cross_attention.keys_values(encoded, context) for block in blocks]
