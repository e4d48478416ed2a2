"""Next-token logits to a next token: pure functions of float32 [batch, vocab].

A token that a filter removes gets the logit -inf. No filter cares how the vocabulary is ordered:
tokens tied with the last one kept are kept too. `choose` applies them in one order: repetition
penalty, temperature, top-k, top-p, min-p, each on what the one before left, renormalised.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


class Sampling(NamedTuple):
    """How to choose; scalars, or None for what is off (a program is compiled for each set of ons).

    Attributes:
      temperature: float32 above 0; None takes the likeliest token (greedy).
      top_k: int32, at least 1.
      top_p: float32 in (0, 1].
      min_p: float32 in [0, 1].
      repetition_penalty: float32 above 0; 1 changes nothing.
    """

    temperature: ArrayLike | None = None
    top_k: ArrayLike | None = None
    top_p: ArrayLike | None = None
    min_p: ArrayLike | None = None
    repetition_penalty: ArrayLike | None = None


def repetition_penalty(logits: Array, seen: Array, penalty: ArrayLike) -> Array:
    """Makes tokens that were seen less likely (CTRL, arXiv:1909.05858, section 4.1).

    Positive logits are divided by the penalty and negative ones multiplied, so that a penalty above
    1 lowers both.

    Args:
      logits: float32 [B, V].
      seen: bool [B, V], tokens of the prompt and of the text so far.
      penalty: above 0.
    """
    lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
    return jnp.where(seen, lowered, logits)


def scale_temperature(logits: Array, temperature: ArrayLike) -> Array:
    """Logits [B, V] over a temperature above 0; the greatest becomes 0, so that none overflows."""
    return (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature


def top_k(logits: Array, k: ArrayLike) -> Array:
    """Keeps the k greatest logits of each row of [B, V], and those equal to the k-th."""
    ones = jnp.ones_like(logits)
    return _keep_greatest(logits, ones, lambda count: count >= jnp.maximum(k, 1))


def top_p(logits: Array, p: ArrayLike) -> Array:
    """Keeps the fewest likeliest tokens whose probabilities sum to p or more (nucleus sampling).

    Holtzman et al. 2019, arXiv:1904.09751. The likeliest token always stays; p = 1 keeps all.
    """
    # The sum of all float32 probabilities may round below 1, so p = 1 is not left to the search.
    probabilities = jax.nn.softmax(logits, axis=-1)
    kept = _keep_greatest(logits, probabilities, lambda mass: (mass >= p) & (mass > 0))
    return jnp.where(jnp.asarray(p) >= 1, logits, kept)


def min_p(logits: Array, p: ArrayLike) -> Array:
    """Keeps tokens at least p times as likely as the likeliest (arXiv:2407.01082)."""
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p)
    return jnp.where(logits >= floor, logits, -jnp.inf)


def choose(logits: Array, sampling: Sampling, keys: Array, seen: Array | None = None) -> Array:
    """Chooses a token for each row, each from its own key: int32 [B].

    Args:
      logits: float32 [B, V].
      sampling: which filters, and their strengths.
      keys: a PRNG key for each row, [B]; unused where greedy.
      seen: bool [B, V], for the repetition penalty.
    """
    if sampling.repetition_penalty is not None and seen is not None:
        logits = repetition_penalty(logits, seen, sampling.repetition_penalty)
    if sampling.temperature is None:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = scale_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p(logits, sampling.min_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def _keep_greatest(logits: Array, weights: Array, enough: Callable[[Array], Array]) -> Array:
    """Keeps the greatest logits of a row, as few as have a sum of weights that is enough.

    The least logit kept is found bit by bit, from the top, among the 2^32 floats: 32 passes over
    the row, which is several times faster than sorting it, and ties need no rule.
    """
    ranks = _ranks(logits)

    def settle_bit(i: int, least: Array) -> Array:
        higher = least | (jnp.uint32(1 << 31) >> jnp.asarray(i, jnp.uint32))
        total = jnp.sum(jnp.where(ranks >= higher, weights, 0), axis=-1, keepdims=True)
        return jnp.where(enough(total), higher, least)

    least = lax.fori_loop(0, 32, settle_bit, jnp.zeros_like(ranks[..., :1]))
    return jnp.where(ranks >= least, logits, -jnp.inf)


def _ranks(x: Array) -> Array:
    """float32 to uint32 in the same order (-0.0 counts as 0.0)."""
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
