"""The model as pure functions of a nested dict of arrays; Flax is used only inside."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.errors import UserError
from llmjax.model import cache as caches
from llmjax.model import products
from llmjax.model.attention import zigzag
from llmjax.model.attention.context import sharding_of
from llmjax.model.attention.mask import Mask
from llmjax.model.aux_sums import Aux, add_aux
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import longest_short_text
from llmjax.model.layers import DECODE, TRAIN, ActivationSharding
from llmjax.model.params import (
    Params,
    ParamSpec,
    check_mesh,
    check_split,
    new_module,
    param_specs,
    unstacked_layers,
)
from llmjax.model.projections import quantized_once
from llmjax.model.quantized import Weight, as_array
from llmjax.model.rope import text_lengths
from llmjax.model.self_attention import BlockContext
from llmjax.model.softcap import soft_cap
from llmjax.model.transformer import Transformer
from llmjax.parallel import mesh


class Hidden(NamedTuple):
    """A model's output before the LM head."""

    states: jax.Array
    """[B, L, D] in the compute dtype."""
    aux: Aux
    """Named sums to add to the loss."""


@dataclass(frozen=True)
class Model:
    """A Transformer's pure functions, of a config from `resolve`, which sets the vocabulary size.

    Under `jax.set_mesh`, arrays are sharded by the table in `llmjax.parallel.mesh`.
    """

    config: ModelConfig
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def init(self, key: jax.Array) -> Params:
        """Initializes float32 parameters, sharded when called inside `jax.jit` under a mesh.

        Weights are normal with standard deviation `init_std`, divided by sqrt(2 x layers of the
        stack) for projections into the residual stream. Norm scales are 1 and biases 0.

        Raises:
          UserError: the layers do not divide over the mesh's stages, or names all parameters that
            do not divide over it.
        """
        check_mesh(self.config, self.compute)
        state = nnx.state(new_module(self.config, self.compute, nnx.Rngs(key)), nnx.Param)
        return nnx.to_pure_dict(state)

    def abstract_params(self) -> Params:
        """Returns shapes and dtypes of the parameters, with shardings where a mesh is set.

        Raises:
          UserError: the layers or parameters do not divide over the mesh.
        """
        if not mesh.has_mesh():
            return param_specs(self.config, self.compute).tree(lambda spec: spec.shape)
        check_split(self.config, self.compute)
        devices = jax.sharding.get_mesh()

        def sharded(spec: ParamSpec) -> jax.ShapeDtypeStruct:
            return spec.shape.update(sharding=mesh.named_sharding(devices, *spec.axes))

        return param_specs(self.config, self.compute).tree(sharded)

    def logical_axes(self) -> Params:
        """Returns the parameters' logical axes, a tuple of names at each leaf."""
        return param_specs(self.config, self.compute).tree(lambda spec: spec.axes)

    def num_params(self) -> int:
        """Returns the number of parameters."""
        return sum(prod(spec.shape.shape) for spec in param_specs(self.config, self.compute).specs)

    def quantized_once(self, params: Params) -> Callable[[Params], Params]:
        """Quantizes the kernels whose products are quantized in training, for many calls.

        Args:
          params: as from `init`, with or without heads.

        Returns:
          A function of the same parameters, which gives each kernel its quantized values, so that
          calls do not compute them again. Gradients remain those of the parameters.
        """
        if self.compute.quantized is None:
            return lambda params: params
        specs = param_specs(self.config, self.compute).specs
        kernels = {spec.path: (spec.axes, spec.inner or ()) for spec in specs if spec.quantized}
        return quantized_once(params, kernels, self.compute.quantized.dtype)

    def num_active_params(self) -> int:
        """Returns the number of parameters that a token uses: of all experts, only its own."""
        moe = self.config.moe
        if moe is None:
            return self.num_params()
        sizes = (
            (prod(spec.shape.shape), "experts" in spec.axes)
            for spec in param_specs(self.config, self.compute).specs
        )
        chosen, experts = moe.experts_per_token, moe.num_experts
        return sum(size * chosen // experts if each else size for size, each in sizes)

    def hidden_and_aux(
        self,
        params: Params,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        token_types: jax.Array | None = None,
        encoder_tokens: jax.Array | None = None,
        encoder_positions: jax.Array | None = None,
        encoder_segments: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Hidden:
        """Returns the last layer's states, and named sums to add to the loss.

        Args:
          params: as from `init`.
          tokens: [B, L] int32; the decoder's if there is one, else the encoder's.
          positions: [B, L] int32; None for 0, 1, 2, …
          segments: [B, L] int32, documents from 1, 0 for padding; None: one document per row.
          token_types: [B, L] int32, in models that have them; None: all 0.
          encoder_tokens: [B, S] int32, for an encoder-decoder.
          encoder_positions: [B, S] int32; None for 0, 1, 2, …
          encoder_segments: [B, S] int32; with `segments`, decoder tokens attend to encoder tokens
            of their own segment, otherwise to all but padding.
          dropout_key: for dropout; None: none.

        Raises:
          UserError: encoder tokens are missing or unexpected, or rows do not divide over the mesh.
        """
        self._check_encoder(encoder_tokens is not None)
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        if not self.config.num_decoder_layers:
            return self._encode(params, tokens, positions, segments, keys[0], token_types)
        encoder_aux: Aux = {}
        tokens, context = self._context("tokens", tokens, positions, segments, causal=True)
        if encoder_tokens is not None:
            source = (encoder_tokens, encoder_positions, encoder_segments)
            encoded, encoder_aux = self._encode(params, *source, keys[0])
            crossed = Mask(context.mask.query_segments, encoder_segments, causal=False)
            context = replace(context, encoded=encoded, encoded_mask=crossed)
        module, unstacked = self._module(params), unstacked_layers(params, "decoder")
        x = module.embed(tokens, context.sharding)
        x, _, aux = module.decoder(x, context, None, keys[1], unstacked)
        return Hidden(_in_order(x, context.sharding), add_aux(encoder_aux, aux))

    def multi_token_hidden(
        self,
        params: Params,
        states: jax.Array,
        next_tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segments: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Hidden:
        """Returns the states from which the token after next is predicted, [B, L, D], and sums.

        Args:
          params: as from `init`.
          states: [B, L, D], of `hidden_and_aux`.
          next_tokens: [B, L] int32, which follow the tokens of these states.
          positions: as of `hidden_and_aux`.
          segments: as of `hidden_and_aux`.
          dropout_key: for dropout; None: none.

        Raises:
          UserError: the model has no module for it.
        """
        if not self.config.multi_token:
            raise UserError("multi_token_hidden", "this model has no module for it")
        tokens, context = self._context("tokens", next_tokens, positions, segments, causal=True)
        module = self._module(params)
        if context.sharding.zigzag:
            states = mesh.reshard(zigzag.enter(states), *context.sharding.stream())
        embedded = module.embed(tokens, context.sharding)
        x, aux = module.multi_token(states, embedded, context, dropout_key)
        return Hidden(_in_order(x, context.sharding), aux)

    def hidden(self, params: Params, tokens: jax.Array, **inputs: jax.Array | None) -> jax.Array:
        """Returns the states of `hidden_and_aux`: [B, L, D] in the compute dtype."""
        return self.hidden_and_aux(params, tokens, **inputs).states

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Maps hidden states to soft-capped logits, [B, L, D] -> [B, L, V] float32."""
        return self._logits(params, hidden, TRAIN)

    def lm_head_input(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Maps hidden states to the input of the LM head; the identity in most models."""
        return self._module(params).lm_head_input(hidden, TRAIN)

    def pool(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Applies BERT's pooler to each row's first token, [B, L, D] -> [B, D].

        Raises:
          UserError: the model has no pooler.
        """
        first = mesh.reshard(hidden, "batch", None, None)[:, :1]
        return self.pool_each(params, first)[:, 0]

    def pool_each(self, params: Params, states: jax.Array) -> jax.Array:
        """Applies BERT's pooler to each state, [B, N, D] -> [B, N, D].

        Raises:
          UserError: the model has no pooler.
        """
        if not self.config.pooler:
            raise UserError("pool", "this model has no pooler")
        return jnp.tanh(self._module(params).pooler(states, DECODE.gathered()))

    def apply(self, params: Params, tokens: jax.Array, **inputs: jax.Array | None) -> jax.Array:
        """Returns the logits of all tokens, [B, L, V] float32; arguments as of `hidden_and_aux`."""
        return self.logits(params, self.hidden(params, tokens, **inputs))

    def lm_head(self, params: Params) -> tuple[jax.Array, jax.Array | None]:
        """Returns the LM head's weights [V, D], with axes ("vocab", "embed"), and bias [V]."""
        rows, bias = self._lm_head(params)
        return as_array(rows, ("vocab", "embed"), self.compute.dtype), bias

    def _lm_head(self, params: Params) -> tuple[Weight, jax.Array | None]:
        tied = self.config.tie_embeddings
        rows = params["embedding"]["rows"] if tied else params["unembedding"]
        return rows, params.get("unembedding_bias")

    def encode(
        self,
        params: Params,
        tokens: jax.Array,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """Runs the encoder, [B, S] int32 -> [B, S, D] in the compute dtype.

        Raises:
          UserError: the model has no encoder, or rows do not divide over the mesh.
        """
        if not self.config.num_encoder_layers:
            raise UserError("encode", "this model has no encoder")
        return self._encode(params, tokens, positions, segments, None).states

    def init_cache(
        self,
        batch: int,
        length: int,
        *,
        encoded: jax.Array | None = None,
        encoder_segments: jax.Array | None = None,
        params: Params | None = None,
        text_lengths: jax.Array | None = None,
    ) -> Cache:
        """Creates an empty cache for `batch` rows of up to `length` positions.

        Args:
          batch: rows; a multiple of the devices that split the batch.
          length: maximum number of positions, including the prompt.
          encoded: [B, S, D] from `encode`, for an encoder-decoder; needs `params`.
          encoder_segments: [B, S] int32, 0 for padding.
          params: as from `init`.
          text_lengths: [B] int32, of the text that each row will hold at most, which decides how
            positions rotate in some models (LongRoPE); None: `length`.

        Raises:
          UserError: there is no decoder, `length` exceeds the learned positions, or `encoded` is
            missing.
        """
        if not self.config.num_decoder_layers:
            raise UserError("decode", "this model has no decoder")
        self._check_encoder(encoded is not None and params is not None)
        self._check_length(length)
        empty = caches.empty(self.config, self.compute.dtype, batch, length)
        if (original := longest_short_text(self.config)) is not None:
            lengths = jnp.full(batch, length) if text_lengths is None else text_lengths
            empty = replace(empty, is_long=mesh.reshard(lengths > original, "batch"))
        if encoded is None or params is None:
            return empty
        pairs = self._module(params).decoder.keys_values_of(
            encoded, unstacked_layers(params, "decoder")
        )
        return empty.with_encoded(pairs, encoder_segments)

    def prefill(
        self,
        params: Params,
        tokens: jax.Array,
        length: int,
        text_lengths: jax.Array | None = None,
        token_counts: jax.Array | None = None,
    ) -> Cache:
        """Reads prompts into a new cache; for decoder-only models.

        Equal to `decode` with an empty cache, up to rounding, but faster for long prompts:
        attention uses the new keys and values directly instead of reading the cache.

        Args:
          params: as from `init`.
          tokens: [B, T] int32, T at most `length`; may be padded at the end, as in `decode`.
          length: maximum number of positions, including these.
          text_lengths: as of `init_cache`.
          token_counts: [B] int32, of the tokens before padding; None: there is no padding. Linear
            attention, which has no slots to overwrite, needs them.

        Raises:
          UserError: as `init_cache`.
        """
        _check_rows("tokens", tokens, "batch", None)
        cache = self.init_cache(tokens.shape[0], length, text_lengths=text_lengths)
        module = self._module(params)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        positions = mesh.reshard(positions, "batch", None)
        is_long = _of_rows(cache.is_long, tokens)
        mask = Mask(self._are_tokens(tokens, token_counts))
        context = BlockContext(DECODE, positions, mask, is_long=is_long, prefills=True)
        x, unstacked = module.embed(tokens, DECODE), unstacked_layers(params, "decoder")
        _, written, _ = module.decoder(x, context, cache, None, unstacked)
        assert written is not None
        return written

    def decode(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Cache,
        *,
        only: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Runs the decoder on `tokens` at `positions`, and writes them to the cache.

        Tokens attend to slots up to their own position, so prompts may be padded at the end:
        padding fills later slots, which are overwritten before any token attends to them. Linear
        attention takes what follows `only` for padding.

        Args:
          params: as from `init`.
          tokens: [B, T] int32: prompts, or one token per row.
          positions: [B, T] int32; those beyond the cache's length are not stored.
          cache: from `init_cache` or the previous call.
          only: [B] int32, index of the one token per row to compute logits of; None: all.

        Returns:
          Logits [B, T, V] float32 (T = 1 with `only`), and the updated cache.
        """
        _check_rows("tokens", tokens, "batch", None)
        encoded_mask = None
        if self.config.is_encoder_decoder:
            encoded_mask = Mask(None, cache.encoder_segments, causal=False)
        module = self._module(params)
        is_long = _of_rows(cache.is_long, tokens)
        counts = None if only is None or tokens.shape[1] == 1 else only + 1
        mask = Mask(self._are_tokens(tokens, counts), index=positions)
        context = BlockContext(DECODE, positions, mask, encoded_mask=encoded_mask, is_long=is_long)
        x = module.embed(tokens, DECODE)
        unstacked = unstacked_layers(params, "decoder")
        x, written, _ = module.decoder(x, context, cache, None, unstacked)
        assert written is not None
        if only is not None:
            x = jnp.take_along_axis(x, mesh.reshard(only, "batch")[:, None, None], axis=1)
        return self._logits(params, x, DECODE), written

    def _are_tokens(self, tokens: jax.Array, counts: jax.Array | None) -> jax.Array | None:
        """Segments [B, T] int32, 0 for padding, of so many tokens of each row before padding; None
        if there is none, or if no layer has a use for them."""
        if self.config.linear is None or counts is None:
            return None
        counts = mesh.reshard(jnp.asarray(counts), "batch")
        return (jnp.arange(tokens.shape[1]) < counts[:, None]).astype(jnp.int32)

    def _module(self, params: Params) -> Transformer:
        """Builds the module from its parameters, without layers that are unstacked."""
        specs = param_specs(self.config, self.compute)
        shapes = None
        for name in ("encoder", "decoder"):
            if groups := unstacked_layers(params, name):
                shapes = shapes or specs.tree(lambda spec: spec.shape)
                stacked = {group: shapes[name][group] for group in groups}
                params = params | {name: params[name] | stacked}
        return nnx.merge(specs.graph, params)

    def _encode(
        self,
        params: Params,
        tokens: jax.Array,
        positions: jax.Array | None,
        segments: jax.Array | None,
        key: jax.Array | None,
        token_types: jax.Array | None = None,
    ) -> Hidden:
        tokens, context = self._context("encoder_tokens", tokens, positions, segments, causal=False)
        context = replace(context, token_types=token_types)
        module, unstacked = self._module(params), unstacked_layers(params, "encoder")
        x = module.embed(tokens, context.sharding)
        x, _, aux = module.encoder(x, context, None, key, unstacked)
        return Hidden(x, aux)

    def _context(
        self,
        name: str,
        tokens: jax.Array,
        positions: jax.Array | None,
        segments: jax.Array | None,
        *,
        causal: bool,
    ) -> tuple[jax.Array, BlockContext]:
        """The tokens in the order that their devices hold them, and the inputs of the layers."""
        _check_rows(name, tokens, "batch", "residual")
        if positions is None:
            self._check_length(tokens.shape[1])
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        sharding = sharding_of(self.config, self.compute, tokens.shape[1], causal=causal)
        is_long = None
        if (original := longest_short_text(self.config)) is not None:
            is_long = text_lengths(mesh.reshard(positions, "batch", None)) > original
            is_long = mesh.reshard(is_long, "batch", "length")
        if sharding.zigzag:
            tokens, positions = zigzag.enter(tokens), zigzag.enter(positions)
            is_long = None if is_long is None else zigzag.enter(is_long)
            segments = None if segments is None else zigzag.enter(segments)
        mask = Mask(segments, segments, None, causal)
        positions = mesh.reshard(positions, "batch", "length")
        return tokens, BlockContext(sharding, positions, mask, is_long=is_long)

    def _logits(self, params: Params, hidden: jax.Array, sharding: ActivationSharding) -> jax.Array:
        rows, bias = self._lm_head(params)
        hidden = self._module(params).lm_head_input(hidden, sharding)
        logits = products.dense(
            mesh.reshard(hidden, *sharding.gathered()),
            rows,
            bias,
            axes=("vocab", "embed"),
            out=("batch", sharding.length, "vocab"),
            precision=self.compute.precision,
            result="float32",
            transposed=True,
        )
        return soft_cap(logits, self.config.logit_softcap)

    def _check_encoder(self, has_input: bool) -> None:
        if has_input != self.config.is_encoder_decoder:
            verb = "needs" if self.config.is_encoder_decoder else "does not take"
            raise UserError("the encoder's input", f"this model {verb} it")

    def _check_length(self, length: int) -> None:
        limit = self.config.max_length
        if self.config.positions == "learned" and length > limit:
            raise UserError(f"rows of {length}", f"the model has {limit} positions")


def _in_order(x: jax.Array, sharding: ActivationSharding) -> jax.Array:
    """States [B, L, D] in the order of the tokens."""
    return mesh.reshard(zigzag.leave(x), *TRAIN.stream()) if sharding.zigzag else x


def _check_rows(name: str, tokens: jax.Array, *axes: str | None) -> None:
    if mesh.has_shardings():
        mesh.check_divides(name, tokens.shape, axes, jax.sharding.get_abstract_mesh())


def _of_rows(flags: jax.Array | None, tokens: jax.Array) -> jax.Array | None:
    """[B] -> [B, L], a flag of each row for each of its tokens."""
    return None if flags is None else jnp.broadcast_to(flags[:, None], tokens.shape)
