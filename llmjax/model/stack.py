"""A stack: positions, layers that share one shape, and the last norm."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.attention.mask import Mask
from llmjax.model.attention.relative import RelativeBias
from llmjax.model.block import Block, Scope
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig, Remat
from llmjax.model.config import ModelConfig
from llmjax.model.embedding import Table
from llmjax.model.kinds import LayerKind, kinds_of, rhythm
from llmjax.model.layers import ATTENTION, PRODUCT, STEPS, Norm, dropout, sinusoids
from llmjax.model.remat import keeping
from llmjax.parallel import mesh

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
        self.config, self.compute, self.kinds = config, compute, kinds_of(config, layers)
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
        scope: Scope,
        cache: Cache | None,
        key: jax.Array | None,
        apart: Sequence[Any] | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Embedded tokens [B, L, D] -> the stack's output [B, L, D], and the cache.

        `apart`: the layers' parameters one by one, to be used instead of the stacked ones. A cache
        is written layer by layer, so with one the layers are always written out.
        """
        x = self._place(x, scope)
        if self.config.positions == "relative":
            slots = x.shape[1] if cache is None or scope.prefills else cache.length
            bias = self.relative(scope.mask, x.shape[1], slots, scope.layout)
            scope = replace(scope, bias=bias)
        keys = [None] * 2 if key is None else list(jax.random.split(key))
        x = dropout(x, self.compute.dropout, keys[0])
        count = len(self.kinds)
        layer_keys = None if keys[1] is None else jax.random.split(keys[1], count)
        block, params = nnx.split(self.layers, nnx.Param)

        def body(carry: tuple, layer: tuple, kind: LayerKind, number: int | None = None) -> tuple:
            params, key = layer
            return nnx.merge(block, params)(carry[0], scope, kind, carry[1], number, key)

        if apart is None and cache is not None:
            apart = split_layers(params, count)
        if apart is not None:
            carry = (x, cache)
            for index, (params, kind) in enumerate(zip(apart, self.kinds, strict=True)):
                layer_key = None if layer_keys is None else layer_keys[index]
                carry = body(carry, (params, layer_key), kind, index)
            x, cache = carry
        else:
            layers = (params, layer_keys)
            x, cache = _through(body, (x, cache), layers, self.kinds, self.compute.remat)
        return (x if self.config.norm_placement == "post" else self.norm(x)), cache

    def _place(self, x: jax.Array, scope: Scope) -> jax.Array:
        """Adds what the embedding of a token depends on beside the token."""
        config, layout = self.config, scope.layout
        if config.positions == "learned":
            x = x + self.positions(scope.positions + config.first_position, layout)
        elif config.positions == "sinusoidal":
            fixed = sinusoids(scope.positions, config.d_model).astype(x.dtype)
            x = x + mesh.reshard(fixed, *layout.stream())
        if config.token_types:
            types = scope.token_types
            types = jnp.zeros_like(scope.positions) if types is None else types
            x = x + self.token_types(types, layout)
        return self.embed_norm(x) if config.embed_norm else x

    def keys_values_of(
        self, encoded: jax.Array, apart: Sequence[Any] | None = None
    ) -> list[tuple[jax.Array, jax.Array]]:
        """The encoder's output [B, E, D] as each layer's keys and values, [B, E, N, K]."""
        block, params = nnx.split(self.layers, nnx.Param)
        encoded = mesh.reshard(encoded, *STEPS.whole())
        scope = Scope(STEPS, jnp.zeros(encoded.shape[:2], jnp.int32), Mask())

        layers = split_layers(params, len(self.kinds)) if apart is None else apart
        blocks = (nnx.merge(block, layer) for layer in layers)
        return [block.cross_attention.keys_values(encoded, scope) for block in blocks]


Body = Callable[[tuple, tuple, LayerKind], tuple]
"""(carry, layer, kind) -> carry."""


def _through(
    body: Body, carry: tuple, layers: tuple, kinds: tuple[LayerKind, ...], remat: Remat
) -> tuple:
    """Takes the carry through all layers: a scan, which compiles one period of them for all.

    On a CPU a few layers are written out instead: there a scan copies each layer's weights out of
    the stack and its activations into one, which takes a fifth of a training step.
    """
    count, (head, period, repeats) = len(kinds), rhythm(kinds)
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
    kinds: tuple[LayerKind, ...],
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
    body: Body, kind: LayerKind, remat: Remat, *, prevent_cse: bool
) -> Callable[[tuple, tuple], tuple]:
    """`prevent_cse` where forward and backward pass are one program, which could join the two."""

    def one(carry: tuple, layer: tuple) -> tuple:
        return body(carry, layer, kind)

    if remat not in KEPT:
        return one
    return jax.checkpoint(one, policy=keeping(*KEPT[remat]), prevent_cse=prevent_cse)
