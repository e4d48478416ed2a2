"""How likely a model finds each token of a given text, and what it would have expected."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.engine.config import TOP_LOGPROBS
from llmjax.inference.language_model import LanguageModel
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import axis_size, place, use_mesh

SHORTEST = 16
"""Rows are padded to powers of two from here on, so that few programs are compiled."""


class GivenToken(NamedTuple):
    """A token of a given text.

    Attributes:
      token: its id.
      logprob: natural logarithm; None for the first token of a text that begins with no other.
      top: the most likely tokens in its place, and their log-probabilities.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


def given_tokens(
    lm: LanguageModel, prefix: Sequence[int], text: Sequence[int], top: int
) -> list[GivenToken]:
    """Scores a text's tokens.

    Args:
      lm: a decoder.
      prefix: what every text begins with, such as the begin-of-text token; not scored.
      text: tokens; with the prefix no more than the context.
      top: alternatives of each, at most TOP_LOGPROBS.
    """
    tokens = [*prefix, *text]
    if len(tokens) < 2:
        return [GivenToken(token, None, ()) for token in text]
    limit = lm.model.config.max_length
    length = min(max(SHORTEST, 1 << (len(tokens) - 1).bit_length()), limit)
    copies = 1 if lm.mesh is None else axis_size(lm.mesh, "batch")
    row = np.zeros((copies, length), np.int32)
    row[:, : len(tokens)] = tokens
    with use_mesh(lm.mesh):
        placed = place(row, lm.mesh, "batch", None)
        vocabulary = jnp.int32(lm.tokenizer.vocab_size)
        found = _scores(lm.model, lm.params, placed, vocabulary)
    logprobs, ids, tops = (np.asarray(array)[0] for array in found)
    scored = []
    for position in range(len(prefix), len(tokens)):
        before = position - 1
        if before < 0:
            scored.append(GivenToken(tokens[position], None, ()))
            continue
        pairs = zip(ids[before, :top].tolist(), tops[before, :top].tolist(), strict=True)
        scored.append(GivenToken(tokens[position], float(logprobs[before]), tuple(pairs)))
    return scored


@partial(jax.jit, static_argnums=0)
def _scores(
    model: Model, params: Params, tokens: jax.Array, vocab_size: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of the token after each of [B, L]: its log-probability [B, L], the most likely ones and
    theirs [B, L, TOP_LOGPROBS]."""
    logits = model.apply(params, tokens)
    known = jnp.arange(logits.shape[-1]) < vocab_size
    logprobs = jax.nn.log_softmax(jnp.where(known, logits, -jnp.inf), axis=-1)
    following = jnp.roll(tokens, -1, axis=1)[..., None]
    chosen = jnp.take_along_axis(logprobs, following, axis=-1)[..., 0]
    top, ids = jax.lax.top_k(logprobs, min(TOP_LOGPROBS, logits.shape[-1]))
    return chosen, ids, top
