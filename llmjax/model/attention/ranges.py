"""Which blocks of a mask are visible, so that attention in blocks computes no others."""

from typing import Protocol

import jax
import jax.numpy as jnp

NO_SEGMENT = jnp.iinfo(jnp.int32).max
"""Stands for the least segment of a block that is all padding."""


class Blocks(Protocol):
    """How the mask of one device's rows is cut into blocks."""

    @property
    def causal(self) -> bool: ...
    @property
    def window(self) -> int | None: ...
    @property
    def rows(self) -> int:
        """Queries of a block."""

    @property
    def columns(self) -> int:
        """Keys of a block."""


def block_ranges(
    blocks: Blocks,
    queries: int,
    keys: int,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """The range of key blocks that each block of queries sees, and the reverse.

    Args:
      blocks: the mask and the sizes of its blocks, which divide the lengths.
      queries: T.
      keys: S.
      query_segments: [B, T] int32 as in `Mask`.
      key_segments: [B, S] int32 as in `Mask`.

    Returns:
      [B or 1, T / rows, 4] and [B or 1, S / columns, 4] int32: blocks from the first to before the
      fourth number may be visible; from the second to before the third, they are without exception.
      If documents are in order, no other blocks are in the range.
    """
    some, whole = _by_distance(blocks, queries, keys)
    if key_segments is not None:
        seen, equal = _by_segments(blocks, query_segments, key_segments)
        some, whole = some & seen, whole & equal
    by_query = _ranges(some, whole)
    return by_query, _ranges(some.swapaxes(1, 2), whole.swapaxes(1, 2))


def _by_distance(blocks: Blocks, queries: int, keys: int) -> tuple[jax.Array, jax.Array]:
    """Whether any and all keys of a block are visible by their distance, [1, blocks, blocks]."""
    first = jnp.arange(0, queries, blocks.rows)[:, None] - jnp.arange(0, keys, blocks.columns)
    nearest, farthest = first - (blocks.columns - 1), first + (blocks.rows - 1)
    some = whole = jnp.ones_like(first, bool)
    if blocks.causal:
        some, whole = some & (farthest >= 0), whole & (nearest >= 0)
    if blocks.window is not None:
        some &= (nearest < blocks.window) & (farthest > -blocks.window)
        whole &= (farthest < blocks.window) & (nearest > -blocks.window)
    return some[None], whole[None]


def _by_segments(
    blocks: Blocks, query_segments: jax.Array | None, key_segments: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `_by_distance`, by segments: [B, blocks, blocks]."""
    keys = key_segments.reshape(len(key_segments), 1, -1, blocks.columns)
    least, greatest = keys.min(-1), keys.max(-1)
    real = jnp.where(keys == 0, NO_SEGMENT, keys).min(-1)
    if query_segments is None:
        return greatest > 0, least > 0
    queries = query_segments.reshape(len(query_segments), -1, 1, blocks.rows)
    first, last = queries.min(-1), queries.max(-1)
    one = (first == last) & (least == greatest) & (first == least) & (first > 0)
    return (first <= greatest) & (last >= real), one


def _ranges(some: jax.Array, whole: jax.Array) -> jax.Array:
    """[B, n, m] bool each -> [B, n, 4] int32: the ends of `some`, around a run of `whole`."""
    count, index = some.shape[-1], jnp.arange(some.shape[-1])
    first = jnp.where(some, index, count).min(-1)
    end = jnp.where(some, index + 1, 0).max(-1)
    first = jnp.minimum(first, end)  # nothing visible: 0 to 0
    start = jnp.where(whole, index, count).min(-1)
    broken = ~whole & (index >= start[..., None])
    stop = jnp.where(broken, index, count).min(-1)
    without = start == count
    start, stop = (jnp.where(without, end, bound) for bound in (start, stop))
    return jnp.stack([first, start, stop, end], -1).astype(jnp.int32)
