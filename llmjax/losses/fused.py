"""Cross-entropy fused with the language-model head.

Logits exist for one chunk of tokens at a time, and the forward pass of a derivative computes the
gradients too, so no [B, L, V] array is ever kept. Each device works on its own tokens and its own
part of the vocabulary; devices exchange a maximum and two sums per token, and reduce the gradients
once at the end. Where memory is short and the head's gradient is large, it is never whole on a
device: a second pass over blocks of the vocabulary computes the logits again, and each block's
gradient is scattered at once, for a third more products.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.losses.scores import LogitConfig, Scores, objective, score, score_again, slope
from llmjax.model.products import dot, reduced, weight_gradient
from llmjax.parallel import exchanges, mesh
from llmjax.parallel.mesh import Axes

CHUNK_BYTES = 2**26
"""Approximate size of a chunk's float32 logits on a device."""

CHUNK_TOKENS = 1024
"""Minimum tokens of a chunk, so that products stay large."""

ROW_BYTES = 2**28
"""Approximate size of float32 logits of all of a device's tokens and a block of the vocabulary."""

LARGE_GRADIENT = 2**30
"""Bytes of a head's float32 gradient from which it is computed in blocks, if memory is short."""

TOKENS: Axes = ("batch", "length")
HIDDEN: Axes = ("batch", "length", None)
ROWS: Axes = ("vocab", "embed")


class LossInputs(NamedTuple):
    """Inputs of a loss of tokens."""

    hidden: jax.Array
    """[B, L, D], the input of the LM head."""
    rows: jax.Array
    """[V, D], the LM head as stored."""
    bias: jax.Array | None
    """[V], its bias."""
    targets: jax.Array
    """[B, L] int32."""


def cross_entropy(inputs: LossInputs, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    """Sums over all tokens: objective, negative log-likelihood, weights, correct predictions.

    Args:
      inputs: hidden states, head and targets.
      weights: [B, L]; tokens of weight 0 add exactly nothing.
      logits: how hidden states become logits, and logits a loss.

    Returns:
      [4] float32. Only the first has a derivative, by hidden, rows and bias.
    """
    return _sums_and_gradients(inputs, weights.astype(jnp.float32), logits)


def nll_of(inputs: LossInputs, logits: LogitConfig) -> jax.Array:
    """Negative log-likelihood of each target, [B, L] float32.

    Its derivative, by hidden, rows and bias, recomputes the logits.
    """
    return _differentiable_nll(inputs, logits)


def nll_and_correct(inputs: LossInputs, logits: LogitConfig) -> tuple[jax.Array, jax.Array]:
    """As `nll_of`, without derivative; and bool [B, L]: whether no token is more likely."""
    nll, correct = _over_devices(_nll, inputs, (), logits, (TOKENS, TOKENS))
    return nll, correct


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _differentiable_nll(inputs: LossInputs, logits: LogitConfig) -> jax.Array:
    return nll_and_correct(inputs, logits)[0]


def _nll_forward(inputs: LossInputs, logits: LogitConfig) -> tuple[jax.Array, LossInputs]:
    return _differentiable_nll(inputs, logits), inputs


def _nll_backward(
    logits: LogitConfig, inputs: LossInputs, cotangent: jax.Array
) -> tuple[LossInputs]:
    """The derivative is that of the sum weighted by the cotangent."""
    plain = logits._replace(z_loss=0.0, smoothing=0.0)
    return (_forward(inputs, cotangent, plain)[1],)


_differentiable_nll.defvjp(_nll_forward, _nll_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sums_and_gradients(inputs: LossInputs, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    return _over_devices(_sums, inputs, (weights,), logits, ((None,),))[0]


def _forward(
    inputs: LossInputs, weights: jax.Array, logits: LogitConfig
) -> tuple[jax.Array, LossInputs]:
    """The sums, and the first one's gradients by the inputs."""
    out: tuple[Axes, ...] = ((None,), ("batch", "residual", None), ROWS, ("vocab",))
    sums, dhidden, drows, dbias = _over_devices(_gradients, inputs, (weights,), logits, out)
    none: Any = None  # integers have no gradient
    return sums, LossInputs(dhidden, drows, None if inputs.bias is None else dbias, none)


def _backward(
    logits: LogitConfig, gradients: LossInputs, cotangent: jax.Array
) -> tuple[LossInputs, None]:
    scale = cotangent[0]
    return jax.tree.map(lambda g: (g * scale).astype(g.dtype), gradients), None


_sums_and_gradients.defvjp(_forward, _backward)


def _over_devices(
    local: Callable,
    inputs: LossInputs,
    weights: tuple[jax.Array, ...],
    logits: LogitConfig,
    out_axes: Sequence[Axes],
) -> tuple[jax.Array, ...]:
    """Runs `local(inputs, *weights, logits)` on each device's tokens and part of the vocabulary."""

    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return local(LossInputs(*arrays[:4]), *arrays[4:], logits)

    axes = (HIDDEN, ROWS, ("vocab",), TOKENS, *(TOKENS for _ in weights))
    return mesh.per_device(run, axes, out_axes)(*inputs, *weights)


def _chunks(rows: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[b, l, ...] -> [chunks, n, ...], padded with zeros, for logits of `rows` columns."""
    tokens = arrays[0].shape[0] * arrays[0].shape[1]
    size = min(tokens, max(CHUNK_TOKENS, CHUNK_BYTES // (4 * rows)))
    count = -(-tokens // size)
    size = -(-tokens // count)

    def cut(x: jax.Array) -> jax.Array:
        flat = x.reshape(tokens, *x.shape[2:])
        padding = [(0, count * size - tokens)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, padding).reshape(count, size, *flat.shape[1:])

    return tuple(cut(x) for x in arrays)


def _live(hidden: jax.Array, weights: jax.Array) -> jax.Array:
    """Zeroes hidden states of weight 0, since NaN times 0 is NaN."""
    return jnp.where((weights != 0)[..., None], hidden, 0)


def _sums_of(scores: Scores, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    """[4] the chunk's objective, nll, weight and correct predictions."""
    values = (objective(scores, logits), scores.nll, 1.0, scores.correct)
    return jnp.stack([jnp.where(weights != 0, weights * x, 0.0).sum() for x in values])


def _sums(inputs: LossInputs, weights: jax.Array, logits: LogitConfig) -> tuple[jax.Array]:
    hidden, rows, bias, targets = inputs
    rows = exchanges.all_gather(rows.astype(logits.precision.dtype), None, "embed")

    def add(sums: jax.Array, chunk: tuple) -> tuple[jax.Array, None]:
        hidden, targets, weights = chunk
        scores = score(_live(hidden, weights), rows, bias, targets, logits)
        return sums + _sums_of(scores, weights, logits), None

    chunks = _chunks(len(rows), hidden, targets, weights)
    sums, _ = jax.lax.scan(add, jnp.zeros(4), chunks)
    return (exchanges.reduce_scatter(sums, TOKENS, (None,)),)


def _gradients(
    inputs: LossInputs, weights: jax.Array, logits: LogitConfig
) -> tuple[jax.Array, ...]:
    hidden, rows, bias, targets = inputs
    rows = exchanges.all_gather(rows.astype(logits.precision.dtype), None, "embed")
    in_blocks = logits.saves_memory and 4 * rows.size >= LARGE_GRADIENT and mesh.parts("embed") > 1

    def add(carry: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        sums, drows, dbias = carry
        hidden, targets, weights = chunk
        hidden = _live(hidden, weights)
        scores = score(hidden, rows, bias, targets, logits)
        change = slope(scores, weights, logits)
        narrow = change.astype(hidden.dtype)
        if not in_blocks:
            dbias = dbias + change.sum(0)
            drows = drows + weight_gradient(narrow, hidden, 1)
        dhidden = dot(narrow, rows, ((1,), (0,)), None)
        sums = sums + _sums_of(scores, weights, logits)
        again = (scores.log_partition, scores.column) if in_blocks else None
        return (sums, drows, dbias), (dhidden, again)

    chunks = _chunks(len(rows), hidden, targets, weights)
    whole = () if in_blocks else rows.shape
    zeros = (jnp.zeros(4), jnp.zeros(whole), jnp.zeros(whole[:1]))
    (sums, drows, dbias), (dhidden, again) = jax.lax.scan(add, zeros, chunks)
    width = hidden.shape[-1]
    dhidden = dhidden.reshape(-1, width)[: targets.size].reshape(hidden.shape)
    dhidden = dhidden.astype(reduced(logits.precision, "vocab"))
    dhidden = exchanges.reduce_scatter(dhidden, ("vocab",), ("batch", "residual", None))
    if in_blocks:
        drows, dbias = _gradients_in_blocks(inputs, rows, (chunks[0], chunks[2], *again), logits)
    else:
        drows = _scattered(drows, logits).astype(inputs.rows.dtype)
    return (
        exchanges.reduce_scatter(sums, TOKENS, (None,)),
        dhidden.astype(hidden.dtype),
        drows,
        exchanges.reduce_scatter(dbias, TOKENS, ("vocab",)),
    )


def _scattered(drows: jax.Array, logits: LogitConfig) -> jax.Array:
    """The sum of the devices' gradients of rows, of which each device receives its columns."""
    drows = drows.astype(reduced(logits.precision, *TOKENS))
    return exchanges.reduce_scatter(drows, TOKENS, ROWS)


def _gradients_in_blocks(
    inputs: LossInputs, rows: jax.Array, tokens: tuple[jax.Array, ...], logits: LogitConfig
) -> tuple[jax.Array, jax.Array]:
    """Gradients of the head, a block of the vocabulary after another.

    Args:
      inputs: with the stored rows.
      rows: [V, D], gathered.
      tokens: hidden states, weights, log_partition and column of all tokens, in chunks.
      logits: how hidden states become logits, and logits a loss.

    Returns:
      Those of the stored rows, and of the bias before its reduction.
    """
    hidden, weights, log_partition, column = (x.reshape(-1, *x.shape[2:]) for x in tokens)
    hidden, count = _live(hidden, weights), len(rows)
    size = min(count, max(1, ROW_BYTES // (4 * len(hidden))))
    # The last block begins earlier, where it would end after the last row.
    starts = jnp.minimum(size * jnp.arange(-(-count // size)), count - size)

    def add(carry: tuple, start: jax.Array) -> tuple[tuple, None]:
        drows, dbias = carry
        block = jax.lax.dynamic_slice_in_dim(rows, start, size)
        bias = inputs.bias
        bias = None if bias is None else jax.lax.dynamic_slice_in_dim(bias, start, size)
        scores = score_again(hidden, block, bias, (log_partition, column - start), logits)
        change = slope(scores, weights, logits)
        part = _scattered(weight_gradient(change.astype(hidden.dtype), hidden, 1), logits)
        place = jax.lax.dynamic_update_slice_in_dim
        drows = place(drows, part.astype(drows.dtype), start, 0)
        return (drows, place(dbias, change.sum(0), start, 0)), None

    zeros = (jnp.zeros_like(inputs.rows), jnp.zeros(count))
    return jax.lax.scan(add, zeros, starts)[0]


def _nll(inputs: LossInputs, logits: LogitConfig) -> tuple[jax.Array, ...]:
    hidden, rows, bias, targets = inputs
    rows = exchanges.all_gather(rows.astype(logits.precision.dtype), None, "embed")

    def of_chunk(chunk: tuple) -> tuple[jax.Array, jax.Array]:
        scores = score(chunk[0], rows, bias, chunk[1], logits)
        return scores.nll, scores.correct

    results = jax.lax.map(of_chunk, _chunks(len(rows), hidden, targets))
    return tuple(x.reshape(-1)[: targets.size].reshape(targets.shape) for x in results)
