"""Ring attention: keys and values travel around the devices that split rows along their length.

Each device keeps its queries. In n steps for n devices it attends to the keys and values that it
holds and passes them on, so that it never holds those of more than two devices, and the transfer of
the next ones runs beside the products of these (Liu et al., arXiv:2310.01889). Partial results are
merged by their log-sum-exp. The backward pass sends keys and values around again, and their
gradients with them, float32 sums that every device adds to and that arrive where they belong; the
forward pass saves the output and its log-sum-exp only.

A device holds a contiguous part of a row, or two in the order of `zigzag`, which balances the work
of causal rows. They are cut into chunks that a kernel takes, and pairs of chunks of which causality
or the window hides all are skipped. Documents are packed as anywhere: their segments travel with
the keys.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.attention import blocked, zigzag
from llmjax.model.attention.mask import HIDDEN, AttentionInputs, BlockRules
from llmjax.model.compute import ATTENTION
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes

Kernel = Literal["blocked", "pallas"]
LANES = 128
"""Chunks of the Pallas kernels are multiples of this."""
LONGEST = 8192
"""Most tokens of theirs: the gradients of a head's queries are kept in VMEM."""


class Config(NamedTuple):
    """Static parameters."""

    rules: BlockRules
    kernel: Kernel


class ArrayAxes(NamedTuple):
    """Logical axes of queries, keys, segments and the log-sum-exp."""

    heads: Axes
    keys: Axes
    rows: Axes
    lse: Axes


def _axes(config: Config) -> ArrayAxes:
    sharding = config.rules.sharding
    rows = ("batch", sharding.length)
    return ArrayAxes(
        sharding.heads(), sharding.heads("kv_heads"), rows, ("batch", "heads", sharding.length)
    )


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
    """As k."""
    segments: jax.Array | None
    """[chunks, B, C]."""


def supports(inputs: AttentionInputs) -> bool:
    """Whether this computes unsplit rows: self-attention with queries in order. Their chunks are
    then those of one device."""
    length = inputs.sharding.length
    in_order = inputs.q.shape[1] == inputs.k.shape[1] and inputs.mask.index is None
    return in_order and mesh.parts(length) == 1


def ring(inputs: AttentionInputs, kernel: Kernel | None = None) -> jax.Array:
    """As `attention.reference`, for self-attention with keys and values split as the queries.

    Args:
      inputs: queries, keys, values and mask.
      kernel: attends to a chunk; None: Pallas kernels on TPUs where they support the chunks, else
        blocks.
    """
    q, k, v, mask, sharding = inputs[:5]
    query_segments, key_segments = mask.query_segments, mask.key_segments
    if key_segments is not None and query_segments is None:  # all keys but padding are visible
        query_segments = jnp.ones_like(key_segments)
        key_segments = (key_segments != 0).astype(jnp.int32)
    if kernel is None:
        part = q.shape[1] // mesh.parts(sharding.length) // (2 if sharding.zigzag else 1)
        pallas = mesh.platform() == "tpu" and part % LANES == 0
        kernel = "pallas" if pallas else "blocked"
    config = Config(inputs.rules(blocked.LONG), kernel)
    axes = _axes(config)
    k, v = (mesh.reshard(x, *axes.keys) for x in (k, v))
    return _ring(q, k, v, query_segments, key_segments, config)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _ring(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    config: Config,
) -> jax.Array:
    return _forward(q, k, v, query_segments, key_segments, config)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    config: Config,
) -> tuple[jax.Array, tuple]:
    axes, saved = _axes(config), (q, k, v, query_segments, key_segments)
    inputs = (axes.heads, axes.keys, axes.keys, axes.rows, axes.rows)
    run = mesh.per_device(partial(_local_forward, config=config), inputs, (axes.heads, axes.lse))
    out, lse = (checkpoint_name(x, ATTENTION) for x in run(*saved))
    return out, (*saved, out, lse)


def _backward(config: Config, saved: tuple, dout: jax.Array) -> tuple:
    axes = _axes(config)
    inputs = (axes.heads, axes.keys, axes.keys, axes.rows, axes.rows)
    run = mesh.per_device(
        partial(_local_backward, config=config),
        (*inputs, axes.heads, axes.lse, axes.heads),
        (axes.heads, axes.keys, axes.keys),
    )
    return *run(*saved, dout), None, None


_ring.defvjp(_forward, _backward)


class Around(NamedTuple):
    """One device's place in the ring."""

    devices: int
    device: jax.Array | int
    part: int
    """Tokens of a contiguous part of the row."""
    size: int
    """C, tokens of a chunk, which divides the part."""
    config: Config

    @property
    def pairs(self) -> jax.Array:
        """[pairs, 2] int32: chunks of queries and of keys of which any may be visible."""
        count, zigzag_ = self.part // self.size, self.config.rules.sharding.zigzag
        chunks = range(count * (2 if zigzag_ else 1))
        pairs = [(i, j) for i in chunks for j in chunks]
        if zigzag_:  # a query of a first half sees no key of a second half
            pairs = [(i, j) for i, j in pairs if not i < count <= j]
        return jnp.array(pairs, jnp.int32)

    def starts(self, device: jax.Array | int) -> jax.Array:
        """[chunks] int32: where a device's chunks start in the row."""
        starts = jnp.asarray(device)[None] * self.part
        if self.config.rules.sharding.zigzag:
            starts = zigzag.chunk_starts(device, self.devices, self.part)
        return (starts[:, None] + jnp.arange(0, self.part, self.size)).reshape(-1)

    def pass_on(self, arrays: Any) -> Any:
        """Sends a tree of arrays to the next device, and returns that of the one before."""
        length = self.config.rules.sharding.length
        return arrays if length is None else exchanges.pass_on(arrays, length)

    def distance(self, pair: jax.Array, step: jax.Array | int) -> jax.Array:
        """int32 []: the index of the first query of a pair less that of its first key, where the
        keys have made a number of steps."""
        source = (self.device - step) % self.devices
        return self.starts(self.device)[pair[0]] - self.starts(source)[pair[1]]

    def any_visible(self, distance: jax.Array) -> jax.Array:
        """Whether any query sees any key of a pair, as far as causality and the window say."""
        rules, seen = self.config.rules, jnp.bool_(True)
        if rules.causal:
            seen &= distance > -self.size
        if rules.window is not None:
            seen &= jnp.abs(distance) - (self.size - 1) < rules.window
        return seen

    def mask(self, queries: Queries, keys: Keys, distance: jax.Array) -> blocked.MaskArrays:
        """The mask of a pair, where the keys' indices start at 0."""
        index = jnp.broadcast_to(distance + jnp.arange(self.size), queries.q.shape[:2])
        return blocked.MaskArrays(index, queries.segments, keys.segments)

    def attend(self, queries: Queries, keys: Keys, distance: jax.Array) -> tuple:
        """Output [B, C, H, K] and log-sum-exp [B, H, C] of a pair, float32."""
        rules = self.config.rules
        if self.config.kernel == "pallas":
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
        rules = self.config.rules
        if self.config.kernel == "pallas":
            from llmjax.model.attention import chunk_kernel

            q, k, v, segments = queries.q, keys.k, keys.v, _segments(queries, keys)
            return chunk_kernel.backward(q, k, v, distance, segments, saved, dout, rules)
        mask = self.mask(queries, keys, distance)
        return blocked.local_backward(
            queries.q, keys.k, keys.v, mask, saved, dout, rules, jnp.float32
        )


def _local_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    *,
    config: Config,
) -> tuple[jax.Array, jax.Array]:
    around = _around(q, config)
    queries = Queries(*_chunks(around, q, query_segments))
    keys = Keys(*_chunks(around, k, v, key_segments))
    chunks, b, size, heads, _ = queries.q.shape

    def attend(sums: tuple, keys: Keys, step: jax.Array | int) -> tuple:
        def add(sums: tuple, pair: jax.Array) -> tuple[tuple, None]:
            i, distance = pair[0], around.distance(pair, step)
            before = _take(sums, i)

            def visible() -> tuple:
                at, to = _take(queries, i), _take(keys, pair[1])
                return merge(before, around.attend(at, to, distance))

            after = jax.lax.cond(around.any_visible(distance), visible, lambda: before)
            return jax.tree.map(lambda all_, x: all_.at[i].set(x), sums, after), None

        return jax.lax.scan(add, sums, around.pairs)[0]

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
        sums, keys = carry
        arriving = around.pass_on(keys)  # beside the products of the current ones
        return (attend(sums, keys, number), arriving), None

    sums: tuple = jnp.zeros(queries.q.shape), jnp.full((chunks, b, heads, size), HIDDEN)
    last = around.devices - 1
    (sums, keys), _ = jax.lax.scan(step, (sums, keys), jnp.arange(last))
    out, lse = attend(sums, keys, last)
    return _joined(out, 1).astype(q.dtype), _joined(lse, 2)


def _local_backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_segments: jax.Array | None,
    key_segments: jax.Array | None,
    out: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    *,
    config: Config,
) -> tuple[jax.Array, ...]:
    around = _around(q, config)
    queries = Queries(*_chunks(around, q, query_segments))
    keys = Keys(*_chunks(around, k, v, key_segments))
    (douts,) = _chunks(around, dout)
    lses, deltas = (_chunks(around, x, axis=2)[0] for x in (lse, blocked.delta(out, dout)))

    def attend(dq: jax.Array, keys: Keys, step: jax.Array | int) -> tuple:
        """Adds to dq; the gradients by these keys and values."""

        def add(sums: tuple, pair: jax.Array) -> tuple[tuple, None]:
            i, j, distance = pair[0], pair[1], around.distance(pair, step)
            before = tuple(x[n] for x, n in zip(sums, (i, j, j), strict=True))

            def visible() -> tuple:
                at, to, saved = _take(queries, i), _take(keys, j), (lses[i], deltas[i])
                parts = around.gradients(at, to, distance, saved, douts[i])
                return jax.tree.map(jnp.add, before, parts)

            after = jax.lax.cond(around.any_visible(distance), visible, lambda: before)
            places = zip(sums, (i, j, j), after, strict=True)
            return tuple(x.at[n].set(part) for x, n, part in places), None

        zeros = jnp.zeros(keys.k.shape)
        return jax.lax.scan(add, (dq, zeros, zeros), around.pairs)[0]

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
        keys, dq, dkv = carry
        arriving, dkv = around.pass_on(keys), around.pass_on(dkv)
        dq, *more = attend(dq, keys, number)
        return (arriving, dq, jax.tree.map(jnp.add, dkv, tuple(more))), None

    # The sums of a block of keys arrive while the products of the device are computed, which are
    # added to them then; the last step has brought them to the device before that of the keys.
    arriving = around.pass_on(keys) if around.devices > 1 else keys
    dq, *dkv = attend(jnp.zeros(queries.q.shape), keys, 0)
    carry = (arriving, dq, tuple(dkv))
    last = around.devices - 1
    if last > 1:
        carry, _ = jax.lax.scan(step, carry, jnp.arange(1, last))
    keys, dq, (dk, dv) = carry
    if last > 0:
        dk, dv = around.pass_on((dk, dv))
        dq, *more = attend(dq, keys, last)
        dk, dv = around.pass_on((dk + more[0], dv + more[1]))
    return tuple(_joined(x, 1).astype(y.dtype) for x, y in ((dq, q), (dk, k), (dv, v)))


def merge(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple:
    """The output [B, T, H, K] and log-sum-exp [B, H, T] over the keys of two."""
    lse = jnp.logaddexp(a[1], b[1])
    weights = (jnp.exp(x[1] - lse).swapaxes(1, 2)[..., None] for x in (a, b))
    return sum(x[0] * weight for x, weight in zip((a, b), weights, strict=True)), lse


def _around(q: jax.Array, config: Config) -> Around:
    part = size = q.shape[1] // (2 if config.rules.sharding.zigzag else 1)
    if config.kernel == "pallas":
        size = next(n for n in range(LONGEST, 0, -LANES) if part % n == 0)
    length = config.rules.sharding.length
    return Around(mesh.parts(length), mesh.part_index(length), part, size, config)


def _segments(queries: Queries, keys: Keys) -> tuple[jax.Array, jax.Array] | None:
    if queries.segments is None or keys.segments is None:
        return None
    return queries.segments, keys.segments


def _chunks(around: Around, *arrays: jax.Array | None, axis: int = 1) -> list:
    """Cuts an axis into chunks, and puts those first."""

    def cut(x: jax.Array | None) -> jax.Array | None:
        if x is None:
            return None
        shape = (*x.shape[:axis], -1, around.size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return [cut(x) for x in arrays]


def _joined(x: jax.Array, axis: int) -> jax.Array:
    """The inverse of `_chunks`, of one array."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _take(arrays: Any, index: jax.Array) -> Any:
    """One chunk of a tree of arrays."""
    return jax.tree.map(lambda x: x[index], arrays)
