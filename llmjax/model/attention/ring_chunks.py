"""Chunks of a device's part of the rows in a ring, and the attention of a pair of them."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.attention import blocked, zigzag
from llmjax.model.attention.mask import BlockRules, MaskArrays
from llmjax.parallel import exchanges, mesh

Kernel = Literal["blocked", "pallas"]
LANES = 128
"""Chunks of the Pallas kernels are multiples of this."""
LONGEST = 8192
"""Most tokens of theirs: the gradients of a head's queries are kept in VMEM."""


class Queries(NamedTuple):
    """One device's queries, in chunks."""

    q: jax.Array
    """[chunks, B, C, H, K]."""
    segments: jax.Array | None
    """[chunks, B, C]."""


class Keys(NamedTuple):
    """What travels: the keys and values of a device, in chunks."""

    k: jax.Array
    """[chunks, B, C, N, K]."""
    v: jax.Array
    """[chunks, B, C, N, V]."""
    segments: jax.Array | None
    """[chunks, B, C]."""


class Around(NamedTuple):
    """One device's place in the ring."""

    devices: int
    device: jax.Array | int
    part: int
    """Tokens of a contiguous part of the row."""
    size: int
    """C, tokens of a chunk, which divides the part."""
    rules: BlockRules
    kernel: Kernel

    @property
    def pairs(self) -> jax.Array:
        """[pairs, 2] int32: chunks of queries and of keys of which any may be visible."""
        count, zigzag_ = self.part // self.size, self.rules.sharding.zigzag
        chunks = range(count * (2 if zigzag_ else 1))
        pairs = [(i, j) for i in chunks for j in chunks]
        if zigzag_:  # a query of a first half sees no key of a second half
            pairs = [(i, j) for i, j in pairs if not i < count <= j]
        return jnp.array(pairs, jnp.int32)

    def starts(self, device: jax.Array | int) -> jax.Array:
        """[chunks] int32: where a device's chunks start in the row."""
        starts = jnp.asarray(device)[None] * self.part
        if self.rules.sharding.zigzag:
            starts = zigzag.chunk_starts(device, self.devices, self.part)
        return (starts[:, None] + jnp.arange(0, self.part, self.size)).reshape(-1)

    def pass_on(self, arrays: Any) -> Any:
        """Sends a tree of arrays to the next device, and returns that of the one before."""
        length = self.rules.sharding.length
        return arrays if length is None else exchanges.pass_on(arrays, length)

    def distance(self, pair: jax.Array, step: jax.Array | int) -> jax.Array:
        """int32 []: the index of the first query of a pair less that of its first key, where the
        keys have made a number of steps."""
        source = (self.device - step) % self.devices
        return self.starts(self.device)[pair[0]] - self.starts(source)[pair[1]]

    def any_visible(self, distance: jax.Array) -> jax.Array:
        """Whether any query sees any key of a pair, as far as causality and the window say."""
        return self.rules.any_visible(distance, self.size)

    def mask(self, queries: Queries, keys: Keys, distance: jax.Array) -> MaskArrays:
        """The mask of a pair, where the keys' indices start at 0."""
        index = jnp.broadcast_to(distance + jnp.arange(self.size), queries.q.shape[:2])
        return MaskArrays(index, queries.segments, keys.segments)

    def attend(self, queries: Queries, keys: Keys, distance: jax.Array) -> tuple:
        """Output [B, C, H, K] and log-sum-exp [B, H, C] of a pair, float32."""
        rules = self.rules
        if self.kernel == "pallas":
            from llmjax.model.attention import chunk_kernel

            q, k, v, segments = queries.q, keys.k, keys.v, _segments(queries, keys)
            return chunk_kernel.forward(q, k, v, distance, segments, rules)
        mask = self.mask(queries, keys, distance)
        return blocked.local_forward(queries.q, keys.k, keys.v, mask, rules, jnp.float32)

    def gradients(
        self,
        queries: Queries,
        keys: Keys,
        distance: jax.Array,
        saved: tuple[jax.Array, jax.Array],
        dout: jax.Array,
    ) -> tuple:
        """Gradients by the queries, keys and values of a pair, float32."""
        rules = self.rules
        if self.kernel == "pallas":
            from llmjax.model.attention import chunk_kernel

            q, k, v, segments = queries.q, keys.k, keys.v, _segments(queries, keys)
            return chunk_kernel.backward(q, k, v, distance, segments, saved, dout, rules)
        mask = self.mask(queries, keys, distance)
        return blocked.local_backward(
            queries.q, keys.k, keys.v, mask, saved, dout, rules, jnp.float32
        )


def around_of(q: jax.Array, rules: BlockRules, kernel: Kernel) -> Around:
    """The place of this device in the ring, with queries [B, T, H, K]."""
    part = size = q.shape[1] // (2 if rules.sharding.zigzag else 1)
    if kernel == "pallas":
        size = next(n for n in range(LONGEST, 0, -LANES) if part % n == 0)
    length = rules.sharding.length
    return Around(mesh.parts(length), mesh.part_index(length), part, size, rules, kernel)


def _segments(queries: Queries, keys: Keys) -> tuple[jax.Array, jax.Array] | None:
    if queries.segments is None or keys.segments is None:
        return None
    return queries.segments, keys.segments


def cut(around: Around, *arrays: jax.Array | None, axis: int = 1) -> list:
    """Cuts an axis into chunks, and puts those first."""

    def cut_one(x: jax.Array | None) -> jax.Array | None:
        if x is None:
            return None
        shape = (*x.shape[:axis], -1, around.size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return [cut_one(x) for x in arrays]


def join(x: jax.Array, axis: int) -> jax.Array:
    """The inverse of `cut`, of one array."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def take(arrays: Any, index: jax.Array) -> Any:
    """One chunk of a tree of arrays."""
    return jax.tree.map(lambda x: x[index], arrays)
