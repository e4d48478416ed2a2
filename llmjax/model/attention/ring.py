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
from typing import get_args

import jax
import jax.numpy as jnp

from llmjax.model.attention import blocked, fused
from llmjax.model.attention.mask import HIDDEN, AttentionInputs, BlockRules, MaskArrays
from llmjax.model.attention.ring_chunks import (
    LANES,
    Kernel,
    Keys,
    Queries,
    around_of,
    cut,
    join,
    take,
)
from llmjax.model.attention.widths import equal_widths
from llmjax.parallel import mesh


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
    q, sharding = inputs.q, inputs.sharding
    if kernel is None:
        part = q.shape[1] // mesh.parts(sharding.length) // (2 if sharding.zigzag else 1)
        pallas = mesh.platform() == "tpu" and part % LANES == 0
        kernel = "pallas" if pallas else "blocked"
    run = partial(_ring, kernel=kernel)
    return equal_widths(run)(inputs) if kernel == "pallas" else run(inputs)


def _ring(inputs: AttentionInputs, *, kernel: Kernel) -> jax.Array:
    q, k, v, mask, sharding = inputs[:5]
    axes = fused.axes_of(sharding, splits_keys=True)
    k, v = (mesh.reshard(x, *axes.keys) for x in (k, v))
    arrays = MaskArrays(None, *(mask.both_segments(q.shape[1]) or (None, None)))
    return fused.attend(q, k, v, arrays, inputs.sinks, inputs.rules(blocked.LONG), RINGS[kernel])


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    rules: BlockRules,
    *,
    kernel: Kernel,
) -> tuple[jax.Array, jax.Array]:
    around = around_of(q, rules, kernel)
    queries = Queries(*cut(around, q, mask.query_segments))
    keys = Keys(*cut(around, k, v, mask.key_segments))
    (chunks, b, size, heads, _), width = queries.q.shape, keys.v.shape[-1]

    def attend(sums: tuple, keys: Keys, step: jax.Array | int) -> tuple:
        def add(sums: tuple, pair: jax.Array) -> tuple[tuple, None]:
            i, distance = pair[0], around.distance(pair, step)
            before = take(sums, i)

            def visible() -> tuple:
                at, to = take(queries, i), take(keys, pair[1])
                return merge(before, around.attend(at, to, distance))

            after = jax.lax.cond(around.any_visible(distance), visible, lambda: before)
            return jax.tree.map(lambda all_, x: all_.at[i].set(x), sums, after), None

        return jax.lax.scan(add, sums, around.pairs)[0]

    def step(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
        sums, keys = carry
        arriving = around.pass_on(keys)  # beside the products of the current ones
        return (attend(sums, keys, number), arriving), None

    outs, lses = (chunks, b, size, heads, width), (chunks, b, heads, size)
    sums: tuple = jnp.zeros(outs), jnp.full(lses, HIDDEN)
    last = around.devices - 1
    (sums, keys), _ = jax.lax.scan(step, (sums, keys), jnp.arange(last))
    out, lse = attend(sums, keys, last)
    return join(out, 1).astype(q.dtype), join(lse, 2)


def _backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    saved: tuple[jax.Array, jax.Array],
    dout: jax.Array,
    rules: BlockRules,
    *,
    kernel: Kernel,
) -> tuple[jax.Array, ...]:
    around = around_of(q, rules, kernel)
    queries = Queries(*cut(around, q, mask.query_segments))
    keys = Keys(*cut(around, k, v, mask.key_segments))
    (douts,) = cut(around, dout)
    lses, deltas = (cut(around, x, axis=2)[0] for x in saved)

    def attend(dq: jax.Array, keys: Keys, step: jax.Array | int) -> tuple:
        """Adds to dq; the gradients by these keys and values."""

        def add(sums: tuple, pair: jax.Array) -> tuple[tuple, None]:
            i, j, distance = pair[0], pair[1], around.distance(pair, step)
            before = tuple(x[n] for x, n in zip(sums, (i, j, j), strict=True))

            def visible() -> tuple:
                at, to, sums_ = take(queries, i), take(keys, j), (lses[i], deltas[i])
                parts = around.gradients(at, to, distance, sums_, douts[i])
                return jax.tree.map(jnp.add, before, parts)

            after = jax.lax.cond(around.any_visible(distance), visible, lambda: before)
            places = zip(sums, (i, j, j), after, strict=True)
            return tuple(x.at[n].set(part) for x, n, part in places), None

        zeros = jnp.zeros(keys.k.shape), jnp.zeros(keys.v.shape)
        return jax.lax.scan(add, (dq, *zeros), around.pairs)[0]

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
    return tuple(join(x, 1).astype(y.dtype) for x, y in ((dq, q), (dk, k), (dv, v)))


RINGS: dict[Kernel, fused.Implementation] = {
    kernel: fused.Implementation(
        partial(_forward, kernel=kernel), partial(_backward, kernel=kernel), splits_keys=True
    )
    for kernel in get_args(Kernel)
}


def merge(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple:
    """The output [B, T, H, K] and log-sum-exp [B, H, T] over the keys of two."""
    lse = jnp.logaddexp(a[1], b[1])
    weights = (jnp.exp(x[1] - lse).swapaxes(1, 2)[..., None] for x in (a, b))
    return sum(x[0] * weight for x, weight in zip((a, b), weights, strict=True)), lse
