"""The Transformer: stacks of layers over one table of embeddings, and the input of the LM head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmjax.model.attention.mask import Mask
from llmjax.model.attention.relative import RelativeBias
from llmjax.model.block import Block, BlockContext, keeping
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig, Remat
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import LayerType, layer_groups, layer_pattern, layer_types
from llmjax.model.layers import (
    ATTENTION,
    DECODE,
    PRODUCT,
    ActivationSharding,
    Aux,
    Dense,
    Norm,
    Table,
    add_aux,
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

        def stacked(keys: jax.Array, width: int) -> Block:
            def block(key: jax.Array) -> Block:
                rngs = nnx.Rngs(key)
                sizes = {"layers": layers, "mlp_width": width}
                return Block(config, compute, **sizes, cross=cross, rngs=rngs)

            return nnx.vmap(block)(keys)

        keys = jax.random.split(rngs.params(), layers)
        self.groups = layer_groups(self.layer_types)
        for name, numbers in self.groups.items():
            chosen = keys if len(self.groups) == 1 else keys[np.array(numbers)]
            setattr(self, name, stacked(chosen, self.layer_types[numbers[0]].mlp_width))
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

        `unstacked`: each group's parameters layer by layer, to be used instead of the stacked
        ones. A cache is written layer by layer, so with one the layers are always written out.
        """
        x = self._place(x, context)
        if self.config.positions == "relative":
            slots = x.shape[1] if cache is None or context.prefills else cache.length
            bias = self.relative(context.mask, x.shape[1], slots, context.sharding)
            context = replace(context, bias=bias)
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        x = dropout(x, self.compute.dropout, keys[0])
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], len(self.layer_types))
        graphs, params = self._split()

        def body(
            carry: tuple, layer: tuple, number: int, index: int | None = None
        ) -> tuple[tuple, Aux]:
            block = nnx.merge(graphs[self._group(number)], layer[0])
            kind = self.layer_types[number]
            x, cache, aux = block(carry[0], context, kind, carry[1], index, layer[1])
            return (x, cache), aux

        if unstacked is None and cache is None:
            stacked = {name: (part, layer_keys) for name, part in params.items()}
            if layer_keys is not None and len(params) > 1:
                stacked = {
                    name: (part, layer_keys[np.array(self.groups[name])])
                    for name, part in params.items()
                }
            walk = _Walk(body, self.layer_types, self.groups, self.compute.remat)
            (x, cache), aux = walk.through((x, cache), stacked)
        else:
            carry, aux = (x, cache), {}
            for number, layer in enumerate(self._one_by_one(params, unstacked)):
                layer_key = None if layer_keys is None else layer_keys[number]
                carry, more = body(carry, (layer, layer_key), number, number)
                aux = add_aux(aux, more)
            x, cache = carry
        return (x if self.config.norm_placement == "post" else self.norm(x)), cache, aux

    def _group(self, number: int) -> str:
        """The name of the group that a layer belongs to."""
        return next(name for name, numbers in self.groups.items() if number in numbers)

    def _split(self) -> tuple[dict[str, nnx.GraphDef], dict[str, Any]]:
        """Each group's module without its parameters, and its stacked parameters."""
        parts = {name: nnx.split(getattr(self, name), nnx.Param) for name in self.groups}
        return (
            {name: graph for name, (graph, _) in parts.items()},
            {name: params for name, (_, params) in parts.items()},
        )

    def _one_by_one(
        self, params: Mapping[str, Any], unstacked: Mapping[str, Sequence[Any]] | None
    ) -> list[Any]:
        """The parameters of each layer, the first one first."""
        if unstacked is None:
            sizes = {name: len(numbers) for name, numbers in self.groups.items()}
            unstacked = {name: split_layers(params[name], size) for name, size in sizes.items()}
        layers: dict[int, Any] = {}
        for name, numbers in self.groups.items():
            layers |= dict(zip(numbers, unstacked[name], strict=True))
        return [layers[number] for number in range(len(self.layer_types))]

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
        self, encoded: jax.Array, unstacked: Mapping[str, Sequence[Any]] | None = None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """The encoder's output [B, E, D] as each layer's keys and values, [B, E, N, K]."""
        graphs, params = self._split()
        encoded = mesh.reshard(encoded, *DECODE.whole())
        context = BlockContext(DECODE, jnp.zeros(encoded.shape[:2], jnp.int32), Mask())
        blocks = (
            nnx.merge(graphs[self._group(number)], layer)
            for number, layer in enumerate(self._one_by_one(params, unstacked))
        )
        return [block.cross_attention.keys_values(encoded, context) for block in blocks]


Body = Callable[[tuple, tuple, int], tuple[tuple, Aux]]
"""(carry, a layer's parameters and dropout key, its number) -> carry, the layer's sums."""


class _Walk(NamedTuple):
    """The way of a carry through the layers of a stack, whose parameters come in groups."""

    body: Body
    types: tuple[LayerType, ...]
    groups: dict[str, tuple[int, ...]]
    remat: Remat

    def through(self, carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
        """Takes the carry through all layers: a scan, which compiles one period of them for all.

        On a CPU a few layers are written out instead: there a scan copies each layer's weights out
        of the stack and its activations into one, which takes a fifth of a training step.
        """
        count, (head, period, repeats) = len(self.types), layer_pattern(self.types)
        if mesh.platform() == "cpu" and count <= UNROLLED:
            head, repeats = count, 0
        end = head + period * repeats
        carry, aux = self._written_out(carry, layers, 0, head)
        if repeats:
            carry, sums = self._scanned(carry, layers, head, period, repeats)
            aux = add_aux(aux, jax.tree.map(lambda x: x.sum(0), sums))
        carry, rest = self._written_out(carry, layers, end, count)
        return carry, add_aux(aux, rest)

    def _scanned(
        self, carry: tuple, layers: dict[str, tuple], head: int, period: int, repeats: int
    ) -> tuple[tuple, Aux]:
        """`repeats` periods of layers from number `head` on; sums have a leading axis of them."""
        places = {name: self._places(name, head, head + period) for name in self.groups}
        periods = {}
        for name, part in layers.items():
            start, end = self._places(name, head, head + period * repeats)
            each = places[name][1] - places[name][0]
            if (each, repeats) != (1, len(self.groups[name])) and each:
                shape = (repeats, each) if each > 1 else (repeats,)
                part = jax.tree.map(
                    lambda leaf, start=start, end=end, shape=shape: leaf[start:end].reshape(
                        *shape, *leaf.shape[1:]
                    ),
                    part,
                )
            if each:
                periods[name] = part

        def whole_period(carry: tuple, layers: dict[str, tuple]) -> tuple[tuple, Aux]:
            aux: Aux = {}
            for number in range(head, head + period):
                name = self._name(number)
                start, end = places[name]
                layer, index = layers[name], self.groups[name].index(number) - start
                if end - start > 1:
                    layer = jax.tree.map(lambda leaf, index=index: leaf[index], layer)
                carry, more = self._remat(number, prevent_cse=False)(carry, layer)
                aux = add_aux(aux, more)
            return carry, aux

        return jax.lax.scan(whole_period, carry, periods)

    def _written_out(
        self, carry: tuple, layers: dict[str, tuple], start: int, end: int
    ) -> tuple[tuple, Aux]:
        """The layers from one number to another, each with its own place in the program."""
        aux: Aux = {}
        if start == end:
            return carry, aux
        split: dict[int, Any] = {}
        for name, part in layers.items():
            first, last = self._places(name, start, end)
            if last > first:
                some = jax.tree.map(lambda leaf, a=first, b=last: leaf[a:b], part)
                numbers = self.groups[name][first:last]
                split |= dict(zip(numbers, split_layers(some, last - first), strict=True))
        for number in range(start, end):
            carry, more = self._remat(number, prevent_cse=True)(carry, split[number])
            aux = add_aux(aux, more)
        return carry, aux

    def _name(self, number: int) -> str:
        return next(name for name, numbers in self.groups.items() if number in numbers)

    def _places(self, name: str, start: int, end: int) -> tuple[int, int]:
        """Which of a group's layers lie between two numbers: from one place to another."""
        numbers = self.groups[name]
        return sum(n < start for n in numbers), sum(n < end for n in numbers)

    def _remat(
        self, number: int, *, prevent_cse: bool
    ) -> Callable[[tuple, tuple], tuple[tuple, Aux]]:
        """`prevent_cse` where forward and backward pass are one program, which could join them."""

        def one(carry: tuple, layer: tuple) -> tuple[tuple, Aux]:
            return self.body(carry, layer, number)

        if self.remat not in KEPT:
            return one
        policy = keeping(*KEPT[self.remat])
        return jax.checkpoint(one, policy=policy, prevent_cse=prevent_cse)


def split_layers(stacked: Any, count: int) -> list[Any]:
    """Trees of one layer each, out of a tree whose leaves have a leading axis of `count` layers."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [part[0] for part in parts]) for parts in zip(*split, strict=True)
    ]
