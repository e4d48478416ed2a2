"""The inputs of attention and its mask."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.layers import ActivationSharding
from llmjax.parallel import mesh

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""Score of a hidden key; finite, so that differences are finite."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """Which keys a query sees.

    Key s of a row has index s; query t has index t, or `index[b, t]`. Segments number the documents
    packed into a row from 1; 0 is padding, which is hidden.
    """

    query_segments: jax.Array | None = None
    """[B, T] int32; queries see keys of their own segment. None: of all segments but 0."""
    key_segments: jax.Array | None = None
    """[B, S] int32; None: all keys are in one segment."""
    index: jax.Array | None = None
    """[B, T] int32; None: 0, 1, 2, …"""
    causal: bool = field(default=True, metadata={"static": True})
    """Whether later keys are hidden."""
    window: int | None = field(default=None, metadata={"static": True})
    """Distance from which keys are hidden, behind and, if not causal, ahead."""

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """Returns the mask as bool [B or 1, T, S], or None if every query sees every key."""
        key, query = self.key_segments, self.query_segments
        key = None if key is None else mesh.reshard(key, "batch", None)[:, None, :]
        query = None if query is None else query[:, :, None]
        return visible(self.distance(queries, keys), query, key, self.causal, self.window)

    def both_segments(self, queries: int) -> tuple[jax.Array, jax.Array] | None:
        """Returns segments of queries and of keys, for kernels that need both, or neither: None.

        Queries that see the keys of all segments are in one segment, and so are these keys.
        """
        key, query = self.key_segments, self.query_segments
        if key is None:
            return None
        if query is None:
            return jnp.ones((len(key), queries), jnp.int32), (key != 0).astype(jnp.int32)
        return query, key

    def in_chunks(
        self, positions: jax.Array, length: str | None, slots: int | None = None
    ) -> "Mask":
        """Narrows the window to chunks: a query sees keys of its own piece of `window` positions.

        A key in the window of a query is in its chunk or in a neighbouring one. So that of the
        chunk's number only the lowest bit matters, which becomes a part of the segments: these are
        known to all implementations.

        Args:
          positions: [B, T] int32, of the queries.
          length: logical axis of T.
          slots: number of keys, whose positions are 0, 1, 2, …; None: those of the queries.
        """
        size = self.window
        assert size is not None

        def segments(
            given: jax.Array | None, positions: jax.Array, length: str | None
        ) -> jax.Array:
            bit = mesh.reshard(positions, "batch", length) // size % 2
            if given is None:
                return 2 + bit
            given = mesh.reshard(given, "batch", length)
            return jnp.where(given == 0, 0, 2 * given + bit)

        alone = self.key_segments is None  # all of a row's tokens are of one text
        query = segments(None if alone else self.query_segments, positions, length)
        if slots is not None:
            every = jnp.broadcast_to(jnp.arange(slots), (positions.shape[0], slots))
            key = segments(self.key_segments, every, None)
        elif alone or self.query_segments is self.key_segments:
            key = query
        else:
            key = segments(self.key_segments, positions, length)
        return replace(self, query_segments=query, key_segments=key)

    def distance(self, queries: int, keys: int) -> jax.Array:
        """Returns the index of each query less that of each key, [B or 1, T, S] int32."""
        index = jnp.arange(queries)[None] if self.index is None else self.index
        return index[:, :, None] - jnp.arange(keys)


def visible(
    distance: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    window: int | None,
) -> jax.Array | None:
    """Returns which keys each query sees, [..., T, S] bool; None if every query sees every key.

    Args:
      distance: [..., T, S] int32, the query's index less the key's.
      query_segments: [..., T, 1] int32, as in `Mask`; ignored without `key_segments`.
      key_segments: [..., 1, S] int32.
      causal: as in `Mask`.
      window: as in `Mask`.
    """
    conditions = []
    if causal:
        conditions.append(distance >= 0)
    if window is not None:
        conditions.append(jnp.abs(distance) < window)
    if key_segments is not None:
        conditions.append(key_segments != 0)
        if query_segments is not None:
            conditions.append(key_segments == query_segments)
    return jax.tree.reduce(jnp.logical_and, conditions) if conditions else None


class MaskArrays(NamedTuple):
    """The arrays of a mask."""

    query_index: jax.Array | None = None
    """[B, T] index of each query; None: 0, 1, 2, …"""
    query_segments: jax.Array | None = None
    """[B, T]."""
    key_segments: jax.Array | None = None
    """[B, S]."""


class AttentionInputs(NamedTuple):
    """The inputs of attention."""

    q: jax.Array
    """[B, T, H, K]."""
    k: jax.Array
    """[B, S, N, K], where N divides H: query head h uses key head h // (H / N)."""
    v: jax.Array
    """[B, S, N, V]; V is K in most models."""
    mask: Mask
    """Which keys each query sees."""
    sharding: ActivationSharding
    """How queries are split along the length; keys and values are split alike, or not at all
    where its context method is gather."""
    softcap: float | None = None
    """Scores s become cap * tanh(s / cap)."""
    bias: jax.Array | None = None
    """[B or 1, H, T, S] float32, added to the scores; only the reference takes one."""
    sinks: jax.Array | None = None
    """[B, H] float32, a score in each softmax besides those of keys, which has no value (attention
    sinks, arXiv:2309.17453). The same in all rows: the gradients of rows are added up outside."""

    def rules(self, block: int) -> "BlockRules":
        """Returns the static parameters of attention in blocks of this many tokens."""
        mask = self.mask
        return BlockRules(mask.causal, mask.window, self.softcap, self.sharding, block)


class BlockRules(NamedTuple):
    """Static parameters of attention in blocks."""

    causal: bool
    window: int | None
    softcap: float | None
    sharding: ActivationSharding
    block: int

    def any_visible(self, distance: jax.Array, size: int) -> jax.Array:
        """Whether causality and the window let any query of a block see any key of another.

        Args:
          distance: int32 [], the index of the first query less that of the first key.
          size: of both blocks.
        """
        seen = jnp.bool_(True)
        if self.causal:
            seen &= distance > -size
        if self.window is not None:
            seen &= jnp.abs(distance) - (size - 1) < self.window
        return seen
