"""Scores of the next symbol as intervals of integers, inside a compiled program.

Each allowed symbol gets floor(p x (total - V)(1 - MARGIN)) + 1 of `total` numbers, V being how many
are allowed, and the most probable one what is left. The margin is more than p can exceed its true
sum by in float32, so that something is left. Symbols lie in the order of their ids, in blocks: only
the blocks' sums, and the frequencies of the one block that matters, are ever added up.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from llmjax.compression.coder import BITS

BLOCK = 256
TOTAL = 1 << BITS
MARGIN = 2.0**-10


class Interval(NamedTuple):
    """Where a symbol lies, for each lane: all [B].

    Attributes:
      symbol: int32.
      start: uint32, the sum of the frequencies of the symbols before it.
      freq: uint32, at least 1 where the symbol is allowed.
    """

    symbol: Array
    start: Array
    freq: Array


def frequencies(logits: Array, allowed: Array) -> Array:
    """Integer frequencies, uint32 [B, V], that sum to TOTAL.

    Args:
      logits: float32 [B, V]; a row with a NaN gives every symbol the same but one.
      allowed: bool [V]; the others get none.
    """
    masked = jnp.where(allowed, logits, -jnp.inf)
    odds = jnp.exp(masked - masked.max(-1, keepdims=True))
    share = odds / odds.sum(-1, keepdims=True)
    share = jnp.where(share <= 1, share, 0.0)  # a NaN is not
    scale = (TOTAL - allowed.sum()).astype(jnp.float32) * (1 - MARGIN)
    counts = jnp.where(allowed, jnp.floor(share * scale).astype(jnp.uint32) + 1, jnp.uint32(0))
    left = jnp.uint32(TOTAL) - counts.sum(-1, dtype=jnp.uint32)
    surest = jnp.argmax(masked, axis=-1)
    return counts + jnp.where(jnp.arange(logits.shape[-1]) == surest[:, None], left[:, None], 0)


def locate(counts: Array, known: Array, targets: Array, seek: Array) -> Interval:
    """The intervals of known symbols, or those that hold the targets.

    Args:
      counts: uint32 [B, V], from `frequencies`.
      known: int32 [B], the symbols, where they are known.
      targets: uint32 [B], numbers below TOTAL, where they are not.
      seek: bool [], which of the two.
    """
    rows, symbols = counts.shape
    blocks = jnp.pad(counts, ((0, 0), (0, -symbols % BLOCK))).reshape(rows, -1, BLOCK)
    ends = jnp.cumsum(blocks.sum(-1, dtype=jnp.uint32), axis=-1, dtype=jnp.uint32)
    found = (ends <= targets[:, None]).sum(-1, dtype=jnp.int32)
    block = jnp.where(seek, jnp.minimum(found, blocks.shape[1] - 1), known // BLOCK)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    before = jnp.where(jnp.arange(blocks.shape[1]) == block[:, None] - 1, ends, 0)
    before = before.sum(-1, dtype=jnp.uint32)[:, None]
    upto = before + jnp.cumsum(inside, axis=-1, dtype=jnp.uint32)
    found = (upto <= targets[:, None]).sum(-1, dtype=jnp.int32)
    place = jnp.where(seek, jnp.minimum(found, BLOCK - 1), known % BLOCK)[:, None]
    freq = jnp.take_along_axis(inside, place, axis=1)[:, 0]
    start = jnp.take_along_axis(upto, place, axis=1)[:, 0] - freq
    return Interval(block * BLOCK + place[:, 0], start, freq)
