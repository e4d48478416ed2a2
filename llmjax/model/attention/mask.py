"""Who may see whom in attention."""

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
        seen = []
        distance = self.distance(queries, keys)
        if self.causal:
            seen.append(distance >= 0)
        if self.window is not None:
            seen.append(jnp.abs(distance) < self.window)
        if self.key_segments is not None:
            key = mesh.reshard(self.key_segments, "batch", None)[:, None, :]
            seen.append(key != 0)
            if self.query_segments is not None:
                seen.append(key == self.query_segments[:, :, None])
        return jax.tree.reduce(jnp.logical_and, seen) if seen else None

    def distance(self, queries: int, keys: int) -> jax.Array:
        """[B or 1, T, S] int32: how far each key lies behind each query."""
        index = jnp.arange(queries)[None] if self.index is None else self.index
        return index[:, :, None] - jnp.arange(keys)


class Rules(NamedTuple):
    """What is known while tracing."""

    causal: bool
    window: int | None
    softcap: float | None
    sharding: ActivationSharding
    block: int
