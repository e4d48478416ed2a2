"""What implementations of fused attention share: each has a forward and a backward pass of its own,
which every device runs on its part of the arrays.

Scores are never kept: the backward pass recomputes them from their log-sum-exp (FlashAttention-2,
arXiv:2307.08691).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llmjax.model.attention.mask import BlockRules, MaskArrays
from llmjax.model.compute import ATTENTION
from llmjax.model.layers import ActivationSharding
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes

Forward = Callable[[jax.Array, jax.Array, jax.Array, MaskArrays, BlockRules], tuple]
"""Queries, keys, values, mask and rules -> the output [B, T, H, K], and the log-sum-exp of the
scores, [B, H, T] float32."""
Backward = Callable[
    [
        jax.Array,
        jax.Array,
        jax.Array,
        MaskArrays,
        tuple[jax.Array, jax.Array],
        jax.Array,
        BlockRules,
    ],
    tuple,
]
"""Queries, keys, values, mask, (the log-sum-exp and `delta`), the gradient by the output, and rules
-> the gradients by queries, keys and values, in their dtypes."""


class Implementation(NamedTuple):
    """Attention of one device's arrays. Hashable, since it is static."""

    forward: Forward
    backward: Backward
    splits_keys: bool = False
    """Whether keys and values are split along the length as queries are; else devices that share a
    row have all of its keys."""
    nats: float = 1.0
    """Unit of the log-sum-exp."""


SINK_AXES: Axes = ("batch", "heads")
"""Logical axes of sinks."""


class ArrayAxes(NamedTuple):
    """Logical axes of the arrays of attention."""

    queries: Axes
    """[B, T, H, K]; also of the output."""
    keys: Axes
    """[B, S, N, K]; also of the values."""
    query_rows: Axes
    """[B, T], of indices and segments."""
    key_rows: Axes
    """[B, S], of segments."""
    lse: Axes
    """[B, H, T], of the log-sum-exp."""

    def arrays(self) -> tuple[Axes, Axes, Axes]:
        """Of queries, keys and values."""
        return self.queries, self.keys, self.keys

    def segments(self) -> tuple[Axes, Axes]:
        """Of queries and of keys."""
        return self.query_rows, self.key_rows

    def inputs(self) -> tuple[Axes, ...]:
        """Of queries, keys, values and the arrays of the mask."""
        return (*self.arrays(), self.query_rows, *self.segments())


def axes_of(sharding: ActivationSharding, *, splits_keys: bool = False) -> ArrayAxes:
    """Returns the axes of queries that are split like this, and of their keys."""
    length = sharding.length
    of_keys = length if splits_keys else None
    return ArrayAxes(
        queries=sharding.heads(),
        keys=("batch", of_keys, "kv_heads", "head_dim"),
        query_rows=("batch", length),
        key_rows=("batch", of_keys),
        lse=("batch", "heads", length),
    )


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    sinks: jax.Array | None,
    rules: BlockRules,
    implementation: Implementation,
) -> jax.Array:
    """Attention of global arrays, [B, T, H, V], by an implementation on each device.

    Sinks, [B, H], scale the implementation's output: with the log-sum-exp over keys and sink, its
    backward pass is the same.
    """
    return _forward(q, k, v, mask, sinks, rules, implementation)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: MaskArrays,
    sinks: jax.Array | None,
    rules: BlockRules,
    implementation: Implementation,
) -> tuple[jax.Array, tuple]:
    def local(
        sinks: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array, *mask: jax.Array | None
    ) -> tuple:
        out, lse = implementation.forward(q, k, v, MaskArrays(*mask), rules)
        return (out, lse) if sinks is None else _add_sinks(out, lse, sinks, implementation.nats)

    axes = axes_of(rules.sharding, splits_keys=implementation.splits_keys)
    run = mesh.per_device(local, (SINK_AXES, *axes.inputs()), (axes.queries, axes.lse))
    out, lse = (checkpoint_name(x, ATTENTION) for x in run(sinks, q, k, v, *mask))
    return out, (q, k, v, mask, sinks, out, lse)


def _add_sinks(out: jax.Array, lse: jax.Array, sinks: jax.Array, nats: float) -> tuple:
    """The output and the log-sum-exp with sinks [B, H] in the softmax."""
    total = jnp.logaddexp(lse * nats, sinks[..., None])
    kept = jnp.exp(lse * nats - total).swapaxes(1, 2)[..., None]
    return (out.astype(jnp.float32) * kept).astype(out.dtype), total / nats


def _backward(
    rules: BlockRules, implementation: Implementation, saved: tuple, dout: jax.Array
) -> tuple:
    def local(
        sinks: jax.Array | None, q: jax.Array, k: jax.Array, v: jax.Array, *arrays: jax.Array
    ) -> tuple:
        *mask, out, lse, dout = arrays
        sums = lse, delta(out, dout)
        gradients = implementation.backward(q, k, v, MaskArrays(*mask), sums, dout, rules)
        if sinks is None:
            return gradients
        # A sink has no value, so that its score's gradient is -delta times its share.
        shares = jnp.exp(sinks[..., None] - lse * implementation.nats)
        by_sinks = -(shares * sums[1]).sum(-1)
        over = (rules.sharding.length,)
        return *gradients, exchanges.reduce_scatter(by_sinks, over, SINK_AXES)

    q, k, v, mask, sinks, out, lse = saved
    axes = axes_of(rules.sharding, splits_keys=implementation.splits_keys)
    inputs = (SINK_AXES, *axes.inputs(), axes.queries, axes.lse, axes.queries)
    outputs = (axes.queries, axes.keys, axes.keys, *(() if sinks is None else (SINK_AXES,)))
    dq, dk, dv, *dsinks = mesh.per_device(local, inputs, outputs)(
        sinks, q, k, v, *mask, out, lse, dout
    )
    return dq, dk, dv, None, dsinks[0] if dsinks else None


attend.defvjp(_forward, _backward)


def delta(out: jax.Array, dout: jax.Array) -> jax.Array:
    """Products of the output's heads and their gradients, [B, T, H, K] -> [B, H, T] float32."""
    return (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1).swapaxes(1, 2)
