"""The next token of each row, where every row has its own sampling parameters.

One program serves all: filters that no row uses are skipped while it runs, by `lax.cond`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from llmjax.decoding.sampling import min_p, repetition_penalty, scale_temperature, top_k, top_p
from llmjax.decoding.steps import row_key
from llmjax.engine.config import TOP_LOGPROBS


class RowSampling(NamedTuple):
    """Parameters of B rows.

    Attributes:
      temperature: float32 [B]; 0 for greedy decoding.
      top_k: int32 [B]; the vocabulary's size keeps all.
      top_p: float32 [B]; 1 keeps all.
      min_p: float32 [B]; 0 keeps all.
      repetition: float32 [B]; 1 changes nothing.
      presence: float32 [B]; 0 changes nothing.
      frequency: float32 [B]; 0 changes nothing.
      seed: uint32 [B].
      key_data: uint32 [B, 2], see `decoding.rows.Request`.
      wants_top: bool [B], whether to report alternatives.
      allowed: bool [B, V], tokens that may follow; None: all.
    """

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition: Array
    presence: Array
    frequency: Array
    seed: Array
    key_data: Array
    wants_top: Array
    allowed: Array | None = None


class Chosen(NamedTuple):
    """Next tokens.

    Attributes:
      tokens: int32 [B].
      nats: float32 [B], under the model's distribution, before penalties and filters.
      top_ids: int32 [B, TOP_LOGPROBS], most likely tokens; zeros where no row wants them.
      top_logprobs: float32 [B, TOP_LOGPROBS].
    """

    tokens: Array
    nats: Array
    top_ids: Array
    top_logprobs: Array


def choose_rows(
    logits: Array,
    history: Array,
    positions: Array,
    prompt_lengths: Array,
    vocab_size: Array,
    sampling: RowSampling,
) -> Chosen:
    """Choose the next token of each row, which depends on nothing but the row.

    Args:
      logits: float32 [B, V].
      history: int32 [B, S], each row's tokens up to its position.
      positions: int32 [B], of the last token.
      prompt_lengths: int32 [B].
      vocab_size: int32; ids from here on are padding of the embedding.
      sampling: the rows' parameters.
    """
    logp = jax.nn.log_softmax(logits, axis=-1)
    vocabulary = jnp.arange(logits.shape[-1])
    penalised = lax.cond(
        jnp.any((sampling.repetition != 1) | (sampling.presence != 0) | (sampling.frequency != 0)),
        lambda: _penalised(logits, history, positions, prompt_lengths, sampling),
        lambda: logits,
    )
    kept = jnp.where(vocabulary < vocab_size, penalised, -jnp.inf)
    if sampling.allowed is not None:
        kept = jnp.where(sampling.allowed, kept, -jnp.inf)
    tokens = _drawn(kept, positions, sampling)
    nats = -jnp.take_along_axis(logp, tokens[:, None], axis=1)[:, 0]
    count = min(TOP_LOGPROBS, logits.shape[-1])
    shape = (logits.shape[0], count)
    top_logprobs, top_ids = lax.cond(
        jnp.any(sampling.wants_top),
        lambda: tuple(lax.top_k(logp, count)),
        lambda: (jnp.zeros(shape, logp.dtype), jnp.zeros(shape, jnp.int32)),
    )
    return Chosen(tokens, nats, top_ids, top_logprobs)


def _penalised(
    logits: Array, history: Array, positions: Array, prompt_lengths: Array, sampling: RowSampling
) -> Array:
    """Logits after the repetition penalty, of all tokens, and the others, of the text alone."""
    rows, slots = jnp.arange(logits.shape[0])[:, None], jnp.arange(history.shape[1])
    is_token = slots <= positions[:, None]
    is_text = is_token & (slots >= prompt_lengths[:, None])
    nothing = jnp.zeros(logits.shape, jnp.float32)
    seen = nothing.at[rows, history].add(is_token.astype(jnp.float32)) > 0
    counts = nothing.at[rows, history].add(is_text.astype(jnp.float32))
    logits = repetition_penalty(logits, seen, sampling.repetition[:, None])
    logits = logits - sampling.frequency[:, None] * counts
    return logits - sampling.presence[:, None] * (counts > 0)


def _drawn(logits: Array, positions: Array, sampling: RowSampling) -> Array:
    """int32 [B], from logits [B, V]."""
    likeliest = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    is_sampled = sampling.temperature > 0

    def draw() -> Array:
        scaled = scale_temperature(logits, jnp.where(is_sampled, sampling.temperature, 1)[:, None])
        for filtered, values, is_used in (
            (top_k, sampling.top_k, sampling.top_k < logits.shape[-1]),
            (top_p, sampling.top_p, sampling.top_p < 1),
            (min_p, sampling.min_p, sampling.min_p > 0),
        ):
            scaled = lax.cond(jnp.any(is_used), filtered, lambda x, _: x, scaled, values[:, None])
        keys = jax.vmap(row_key)(sampling.seed, sampling.key_data, positions)
        drawn = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
        return jnp.where(is_sampled, drawn, likeliest)

    return lax.cond(jnp.any(is_sampled), draw, lambda: likeliest)
