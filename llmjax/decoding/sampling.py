"""Sampling of next tokens: pure functions of logits, float32 [batch, vocab].

Filters set the logits of removed tokens to -inf. They do not depend on the order of the vocabulary:
tokens tied with the last one kept are kept too. `choose` applies repetition penalty, temperature,
top-k, top-p and min-p in this order, each to the renormalised result of the one before.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


class Sampling(NamedTuple):
    """Sampling parameters as scalars, None if off (each set of active filters compiles once).

    Attributes:
      temperature: float32 above 0; None for greedy decoding.
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
    """Make seen tokens less likely (CTRL, arXiv:1909.05858, section 4.1).

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
    """Divide logits [B, V] by a temperature above 0; the maximum becomes 0, so none overflows."""
    return (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature


def top_k(logits: Array, k: ArrayLike) -> Array:
    """Keep the k largest logits of each row of [B, V], and those equal to the k-th."""
    ones = jnp.ones_like(logits)
    return _keep_largest(logits, ones, lambda count: count >= jnp.maximum(k, 1))


def top_p(logits: Array, p: ArrayLike) -> Array:
    """Keep the smallest set of most likely tokens with total probability p or more (nucleus).

    Holtzman et al. 2019, arXiv:1904.09751. The most likely token always stays; p = 1 keeps all.
    """
    # The sum of all float32 probabilities may round below 1, so p = 1 is a special case.
    probabilities = jax.nn.softmax(logits, axis=-1)
    kept = _keep_largest(logits, probabilities, lambda mass: (mass >= p) & (mass > 0))
    return jnp.where(jnp.asarray(p) >= 1, logits, kept)


def min_p(logits: Array, p: ArrayLike) -> Array:
    """Keep tokens at least p times as likely as the most likely one (arXiv:2407.01082)."""
    floor = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p)
    return jnp.where(logits >= floor, logits, -jnp.inf)


def choose(logits: Array, sampling: Sampling, keys: Array, seen: Array | None = None) -> Array:
    """Choose a token for each row, each with a separate key: int32 [B].

    Args:
      logits: float32 [B, V].
      sampling: the filters.
      keys: a PRNG key for each row, [B]; unused if greedy.
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


def _keep_largest(logits: Array, weights: Array, enough: Callable[[Array], Array]) -> Array:
    """Keep the fewest largest logits of a row whose weights sum to enough.

    The threshold is found by binary search over the bits of a float32, from the top: 32 passes over
    the row, several times faster than sorting, and without a rule for ties.
    """
    ranks = _ranks(logits)

    def set_bit(i: int, threshold: Array) -> Array:
        higher = threshold | (jnp.uint32(1 << 31) >> jnp.asarray(i, jnp.uint32))
        total = jnp.sum(jnp.where(ranks >= higher, weights, 0), axis=-1, keepdims=True)
        return jnp.where(enough(total), higher, threshold)

    threshold = lax.fori_loop(0, 32, set_bit, jnp.zeros_like(ranks[..., :1]))
    return jnp.where(ranks >= threshold, logits, -jnp.inf)


def _ranks(x: Array) -> Array:
    """Map float32 to uint32 in the same order (-0.0 as 0.0)."""
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
