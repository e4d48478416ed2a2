"""What attention is computed from, and who may see whom in it."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.layers import ActivationSharding
from llmjax.parallel import mesh

HIDDEN = float(jnp.finfo(jnp.float32).min)
"""The score of a key out of sight; finite, so that differences are."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mask:
    """Which keys a query sees.

    Key s of a row has index s; query t has index t, or `index[b, t]` where given. Segments are
    documents packed into a row, counted from 1; 0 is padding, which nothing sees.
    """

    query_segments: jax.Array | None = None
    """[B, T] int32; a query sees keys of its own segment. None: keys of every segment but 0."""
    key_segments: jax.Array | None = None
    """[B, S] int32; None: all keys are of one segment."""
    index: jax.Array | None = None
    """[B, T] int32; None for 0, 1, 2, …"""
    causal: bool = field(default=True, metadata={"static": True})
    """Whether later keys are hidden."""
    window: int | None = field(default=None, metadata={"static": True})
    """Distance at which keys are out of sight, behind and, if not causal, ahead."""

    def dense(self, queries: int, keys: int) -> jax.Array | None:
        """[B or 1, T, S] bool, or None where every query sees every key."""
        key, query = self.key_segments, self.query_segments
        key = None if key is None else mesh.reshard(key, "batch", None)[:, None, :]
        query = None if query is None else query[:, :, None]
        return visible(self.distance(queries, keys), query, key, self.causal, self.window)

    def distance(self, queries: int, keys: int) -> jax.Array:
        """[B or 1, T, S] int32: how far each key lies behind each query."""
        index = jnp.arange(queries)[None] if self.index is None else self.index
        return index[:, :, None] - jnp.arange(keys)


def visible(
    distance: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    causal: bool,
    window: int | None,
) -> jax.Array | None:
    """Which keys each query sees, [..., T, S] bool; None where every query sees every key.

    Args:
      distance: [..., T, S] int32, how far each key lies behind each query.
      query_segments: [..., T, 1] int32, as in `Mask`; without `key_segments` they do not count.
      key_segments: [..., 1, S] int32.
      causal: as in `Mask`.
      window: as in `Mask`.
    """
    seen = []
    if causal:
        seen.append(distance >= 0)
    if window is not None:
        seen.append(jnp.abs(distance) < window)
    if key_segments is not None:
        seen.append(key_segments != 0)
        if query_segments is not None:
            seen.append(key_segments == query_segments)
    return jax.tree.reduce(jnp.logical_and, seen) if seen else None


class AttentionInputs(NamedTuple):
    """What attention is computed from."""

    q: jax.Array
    """[B, T, H, K]."""
    k: jax.Array
    """[B, S, N, K], where N divides H: query head h uses key head h // (H / N)."""
    v: jax.Array
    """[B, S, N, K]."""
    mask: Mask
    """Which keys each query sees."""
    sharding: ActivationSharding
    """How the queries' length is split; keys and values are whole."""
    softcap: float | None = None
    """Bounds the scores s as cap * tanh(s / cap)."""
    bias: jax.Array | None = None
    """[B or 1, H, T, S] float32, added to the scores; only the reference takes one."""

    def rules(self, block: int) -> "BlockRules":
        """What is known while tracing, for a computation in blocks of this many tokens."""
        mask = self.mask
        return BlockRules(mask.causal, mask.window, self.softcap, self.sharding, block)


class BlockRules(NamedTuple):
    """What attention in blocks knows while tracing."""

    causal: bool
    window: int | None
    softcap: float | None
    sharding: ActivationSharding
    block: int
