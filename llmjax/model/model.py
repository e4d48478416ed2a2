"""The model as pure functions of a plain dictionary of arrays; Flax stays behind this door."""

from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.errors import UserError
from llmjax.model import cache as caches
from llmjax.model import products
from llmjax.model.attention.mask import Mask
from llmjax.model.block import BlockContext
from llmjax.model.cache import Cache
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import DECODE, TRAIN, ActivationSharding, Aux, add_aux
from llmjax.model.params import Params, ParamSpec, param_specs, unstacked_layers
from llmjax.model.transformer import Transformer
from llmjax.parallel import mesh


class Hidden(NamedTuple):
    """What a model computes of tokens before its LM head."""

    states: jax.Array
    """[B, L, D] in the compute dtype."""
    aux: Aux
    """Named sums for the loss."""


@dataclass(frozen=True)
class Model:
    """A Transformer's functions. `config` comes from `resolve`: its vocabulary has a size.

    Under `jax.set_mesh` every array is laid out by the table of `llmjax.parallel.mesh`.
    """

    config: ModelConfig
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def init(self, key: jax.Array) -> Params:
        """Draws the parameters, float32, born sharded when called inside `jax.jit` under a mesh.

        Weights are normal with deviation `init_std`; those into the residual stream are divided by
        sqrt(2 x layers of their stack); norms start at 1, biases at 0. Every array has its own key.

        Raises:
          UserError: a parameter does not divide over the mesh; all such are named.
        """
        param_specs(self.config, self.compute).check_mesh()
        state = nnx.state(Transformer(self.config, self.compute, rngs=nnx.Rngs(key)), nnx.Param)
        return nnx.to_pure_dict(state)

    def abstract_params(self) -> Params:
        """Shapes and dtypes of the parameters, with shardings where a mesh is set.

        Raises:
          UserError: as `init`.
        """
        if not mesh.has_mesh():
            return param_specs(self.config, self.compute).tree(lambda spec: spec.shape)
        param_specs(self.config, self.compute).check_mesh()
        place = jax.sharding.get_mesh()

        def sharded(spec: ParamSpec) -> jax.ShapeDtypeStruct:
            return spec.shape.update(sharding=mesh.named_sharding(place, *spec.axes))

        return param_specs(self.config, self.compute).tree(sharded)

    def logical_axes(self) -> Params:
        """The parameters' logical axes: the tree of `init` with a tuple of names at each leaf."""
        return param_specs(self.config, self.compute).tree(lambda spec: spec.axes)

    def num_params(self) -> int:
        """How many numbers the parameters hold."""
        return sum(prod(spec.shape.shape) for spec in param_specs(self.config, self.compute).specs)

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
        """The last layer's states [B, L, D] in the compute dtype, and named sums for the loss.

        Args:
          params: as from `init`.
          tokens: [B, L] int32; of the decoder where there is one, else of the encoder.
          positions: [B, L] int32; None for 0, 1, 2, …
          segments: [B, L] int32, documents counted from 1, 0 for padding; None: one document a row.
          token_types: [B, L] int32 kinds of segment, where the model has them; None: all 0.
          encoder_tokens: [B, S] int32, for an encoder-decoder.
          encoder_positions: [B, S] int32; None for 0, 1, 2, …
          encoder_segments: [B, S] int32; where `segments` are given too, a decoder token sees
            the encoder's tokens of its own segment, else all but padding.
          dropout_key: None: no dropout.

        Raises:
          UserError: the encoder's tokens are missing or unused, or rows do not suit the mesh.
        """
        self._check_encoder(encoder_tokens is not None)
        keys = (None, None) if dropout_key is None else tuple(jax.random.split(dropout_key))
        if not self.config.num_decoder_layers:
            return self._encode(params, tokens, positions, segments, keys[0], token_types)
        encoder_aux: Aux = {}
        context = self._context("tokens", tokens, positions, segments, causal=True)
        if encoder_tokens is not None:
            source = (encoder_tokens, encoder_positions, encoder_segments)
            encoded, encoder_aux = self._encode(params, *source, keys[0])
            crossed = Mask(segments, encoder_segments, causal=False)
            context = replace(context, encoded=encoded, encoded_mask=crossed)
        module, unstacked = self._module(params), unstacked_layers(params, "decoder")
        x = module.embed(tokens, TRAIN)
        x, _, aux = module.decoder(x, context, None, keys[1], unstacked)
        return Hidden(x, add_aux(encoder_aux, aux))

    def hidden(self, params: Params, tokens: jax.Array, **inputs: jax.Array | None) -> jax.Array:
        """The states of `hidden_and_aux`, of the same arguments: [B, L, D] in the compute dtype."""
        return self.hidden_and_aux(params, tokens, **inputs).states

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Scores of the next token, [B, L, D] -> [B, L, V] float32, soft-capped."""
        return self._logits(params, hidden, TRAIN)

    def lm_head_input(self, params: Params, hidden: jax.Array) -> jax.Array:
        """What `lm_head` is multiplied with: the hidden states themselves in most models."""
        return self._module(params).lm_head_input(hidden, TRAIN)

    def pool(self, params: Params, hidden: jax.Array) -> jax.Array:
        """BERT's summary of a row: its first token's hidden state, projected, [B, L, D] -> [B, D].

        Raises:
          UserError: the model has no pooler.
        """
        first = mesh.reshard(hidden, "batch", None, None)[:, :1]
        return self.summarise(params, first)[:, 0]

    def summarise(self, params: Params, states: jax.Array) -> jax.Array:
        """What BERT's pooler makes of states, each by itself: [B, N, D] -> [B, N, D].

        Raises:
          UserError: the model has no pooler.
        """
        if not self.config.pooler:
            raise UserError("pool", "this model has no pooler")
        return jnp.tanh(self._module(params).pooler(states, DECODE.whole()))

    def apply(self, params: Params, tokens: jax.Array, **inputs: jax.Array | None) -> jax.Array:
        """`logits(hidden(…))`, of the same arguments as `hidden_and_aux`: [B, L, V] float32."""
        return self.logits(params, self.hidden(params, tokens, **inputs))

    def lm_head(self, params: Params) -> tuple[jax.Array, jax.Array | None]:
        """Weights [V, D] ("vocab", "embed") that map `lm_head_input` to logits, and a bias [V]."""
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
        """The encoder's output, [B, S] int32 -> [B, S, D] in the compute dtype.

        Raises:
          UserError: the model has no encoder, or rows do not suit the mesh.
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
    ) -> Cache:
        """An empty cache for `batch` rows of up to `length` positions.

        Args:
          batch: rows; a multiple of the devices that split the batch.
          length: positions that will ever be decoded, the prompt's included.
          encoded: [B, S, D] from `encode`, for an encoder-decoder; with it, `params`.
          encoder_segments: [B, S] int32, 0 for padding.
          params: as from `init`.

        Raises:
          UserError: no decoder, more positions than a learned table has, or `encoded` is missing.
        """
        if not self.config.num_decoder_layers:
            raise UserError("decode", "this model has no decoder")
        self._check_encoder(encoded is not None and params is not None)
        self._check_length(length)
        empty = caches.empty(self.config, self.compute.dtype, batch, length)
        if encoded is None or params is None:
            return empty
        pairs = self._module(params).decoder.keys_values_of(
            encoded, unstacked_layers(params, "decoder")
        )
        return empty.with_encoded(pairs, encoder_segments)

    def prefill(self, params: Params, tokens: jax.Array, length: int) -> Cache:
        """A cache of `length` positions that has read the beginnings of rows; a decoder's alone.

        What it holds is what `decode` would have written to an empty one, up to rounding; keys and
        values are never looked up where they were just made, so long prompts are read faster.

        Args:
          params: as from `init`.
          tokens: [B, T] int32, T at most `length`; padding at the end as in `decode`.
          length: positions that will ever be decoded, these included.

        Raises:
          UserError: as `init_cache`.
        """
        _check_rows("tokens", tokens, "batch", None)
        cache, module = self.init_cache(tokens.shape[0], length), self._module(params)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        positions = mesh.reshard(positions, "batch", None)
        context = BlockContext(DECODE, positions, Mask(), prefills=True)
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
        """Reads `tokens` at `positions` of their rows and remembers them.

        A token sees the slots up to its own position. So a prompt may be padded at its end: what
        the padding leaves behind lies at later slots, which are written again before they are seen.

        Args:
          params: as from `init`.
          tokens: [B, T] int32: a prompt, or one token a row.
          positions: [B, T] int32; those beyond the cache's length are not stored.
          cache: from `init_cache` or the last call.
          only: [B] int32, the one token of each row whose logits are wanted; None for all.

        Returns:
          Logits [B, T, V] float32 (T = 1 with `only`), and the cache.
        """
        _check_rows("tokens", tokens, "batch", None)
        encoded_mask = None
        if self.config.is_encoder_decoder:
            encoded_mask = Mask(None, cache.encoder_segments, causal=False)
        module = self._module(params)
        context = BlockContext(DECODE, positions, Mask(index=positions), encoded_mask=encoded_mask)
        x = module.embed(tokens, DECODE)
        unstacked = unstacked_layers(params, "decoder")
        x, written, _ = module.decoder(x, context, cache, None, unstacked)
        assert written is not None
        if only is not None:
            x = jnp.take_along_axis(x, mesh.reshard(only, "batch")[:, None, None], axis=1)
        return self._logits(params, x, DECODE), written

    def _module(self, params: Params) -> Transformer:
        """The module of these parameters; layers that come one by one are left out of it."""
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
        context = self._context("encoder_tokens", tokens, positions, segments, causal=False)
        context = replace(context, token_types=token_types)
        module, unstacked = self._module(params), unstacked_layers(params, "encoder")
        x = module.embed(tokens, TRAIN)
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
    ) -> BlockContext:
        _check_rows(name, tokens, "batch", "residual")
        if positions is None:
            self._check_length(tokens.shape[1])
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        mask = Mask(segments, segments, None, causal)
        return BlockContext(TRAIN, mesh.reshard(positions, "batch", "length"), mask)

    def _logits(self, params: Params, hidden: jax.Array, sharding: ActivationSharding) -> jax.Array:
        rows, bias = self.lm_head(params)
        hidden = self._module(params).lm_head_input(hidden, sharding)
        logits = products.dense(
            mesh.reshard(hidden, *sharding.whole()),
            rows.T,
            bias,
            axes=("embed", "vocab"),
            out=("batch", sharding.length, "vocab"),
            dtype=self.compute.dtype,
            result="float32",
        )
        cap = self.config.logit_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def _check_encoder(self, given: bool) -> None:
        if given != self.config.is_encoder_decoder:
            has = "needs" if self.config.is_encoder_decoder else "has no use for"
            raise UserError("the encoder's input", f"this model {has} it")

    def _check_length(self, length: int) -> None:
        limit = self.config.max_length
        if self.config.positions == "learned" and length > limit:
            raise UserError(f"rows of {length}", f"the model has learned {limit} positions")


def _check_rows(name: str, tokens: jax.Array, *axes: str | None) -> None:
    if mesh.has_shardings():
        mesh.check_divides(name, tokens.shape, axes, jax.sharding.get_abstract_mesh())
