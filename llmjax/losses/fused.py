"""Cross-entropy fused with the language-model head.

Logits exist for one chunk of tokens at a time, and the forward pass of a derivative leaves the
gradients behind, so no [B, L, V] array is ever kept. Each device works on its own tokens and its
own part of the vocabulary; what they exchange is a maximum and two sums for each token, and
one reduction of the gradients at the end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.losses.scores import LogitConfig, Scores, objective, score, slope
from llmjax.model.products import dot, weight_gradient
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

CHUNK_BYTES = 2**26
"""About how large one chunk's float32 logits may be on a device."""

CHUNK_TOKENS = 1024
"""How many tokens a chunk has at least, so that products stay large."""

TOKENS: Axes = ("batch", "length")
HIDDEN: Axes = ("batch", "length", None)
ROWS: Axes = ("vocab", "embed")


class LossInputs(NamedTuple):
    """What a loss of tokens is computed from."""

    hidden: jax.Array
    """[B, L, D], the model's output."""
    rows: jax.Array
    """[V, D], the language-model head as stored."""
    bias: jax.Array | None
    """[V], its bias."""
    targets: jax.Array
    """[B, L] int32."""


def cross_entropy(inputs: LossInputs, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    """Sums over all tokens: objective, negative log-likelihood, weights, correct predictions.

    Args:
      inputs: hidden states, head and targets.
      weights: [B, L]; where one is 0, the token adds exactly nothing.
      logits: how hidden states become logits, and these a loss.

    Returns:
      [4] float32. Only the first has a derivative, by hidden, rows and bias.
    """
    return _sums_and_gradients(*inputs, weights.astype(jnp.float32), logits)


def nll_of(inputs: LossInputs, logits: LogitConfig) -> jax.Array:
    """Negative log-likelihood of each target, [B, L] float32.

    Its derivative, by hidden, rows and bias, computes the logits once more.
    """
    return _differentiable_nll(*inputs, logits)


def nll_and_correct(inputs: LossInputs, logits: LogitConfig) -> tuple[jax.Array, jax.Array]:
    """As nll_of, without derivative; and bool [B, L]: whether no token is likelier."""
    hidden, rows, bias, targets = inputs
    out = (TOKENS, TOKENS)
    nll, correct = _over_devices(_nll, hidden, rows, bias, (targets,), logits, out)
    return nll, correct


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _differentiable_nll(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    logits: LogitConfig,
) -> jax.Array:
    return nll_and_correct(LossInputs(hidden, rows, bias, targets), logits)[0]


def _keep(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    logits: LogitConfig,
) -> tuple[jax.Array, tuple]:
    return _differentiable_nll(hidden, rows, bias, targets, logits), (hidden, rows, bias, targets)


def _redo(logits: LogitConfig, kept: tuple, cotangent: jax.Array) -> tuple:
    """Sums weighted by the cotangent have the derivative that is wanted."""
    plain = logits._replace(z_loss=0.0, smoothing=0.0)
    hidden, rows, bias, targets = kept
    return *_forward(hidden, rows, bias, targets, cotangent, plain)[1], None


_differentiable_nll.defvjp(_keep, _redo)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _sums_and_gradients(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    logits: LogitConfig,
) -> jax.Array:
    return _over_devices(_sums, hidden, rows, bias, (targets, weights), logits, ((None,),))[0]


def _forward(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    logits: LogitConfig,
) -> tuple[jax.Array, list[jax.Array | None]]:
    out: tuple[Axes, ...] = ((None,), ("batch", "residual", None), ROWS, ("vocab",))
    each = (targets, weights)
    sums, *gradients = _over_devices(_gradients, hidden, rows, bias, each, logits, out)
    return sums, [*gradients[:2], None if bias is None else gradients[2]]


def _backward(
    logits: LogitConfig, gradients: list[jax.Array | None], cotangent: jax.Array
) -> tuple:
    scale = cotangent[0]
    scaled = [None if g is None else (g * scale).astype(g.dtype) for g in gradients]
    return *scaled, None, None


_sums_and_gradients.defvjp(_forward, _backward)


def _over_devices(
    local: Callable,
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    each: tuple[jax.Array, ...],
    logits: LogitConfig,
    out_axes: Sequence[Axes],
) -> tuple[jax.Array, ...]:
    """Runs `local` on each device's tokens (hidden, and the arrays of `each`) and vocabulary."""
    axes = (HIDDEN, ROWS, ("vocab",), *(TOKENS for _ in each))
    run = mesh.per_device(partial(local, logits=logits), axes, out_axes)
    return run(hidden, rows, bias, *each)


def _chunks(rows: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[b, l, ...] -> [chunks, n, ...], padded with zeros, for logits of `rows` columns."""
    tokens = arrays[0].shape[0] * arrays[0].shape[1]
    size = min(tokens, max(CHUNK_TOKENS, CHUNK_BYTES // (4 * rows)))
    count = -(-tokens // size)
    size = -(-tokens // count)

    def cut(x: jax.Array) -> jax.Array:
        flat = x.reshape(tokens, *x.shape[2:])
        room = [(0, count * size - tokens)] + [(0, 0)] * (flat.ndim - 1)
        return jnp.pad(flat, room).reshape(count, size, *flat.shape[1:])

    return tuple(cut(x) for x in arrays)


def _live(hidden: jax.Array, weights: jax.Array) -> jax.Array:
    """Hidden states, zeroed where the weight is: NaN times 0 would be NaN."""
    return jnp.where((weights != 0)[..., None], hidden, 0)


def _sums_of(scores: Scores, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    each = (objective(scores, logits), scores.nll, 1.0, scores.correct)
    return jnp.stack([jnp.where(weights != 0, weights * x, 0.0).sum() for x in each])


def _sums(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    *,
    logits: LogitConfig,
) -> tuple[jax.Array]:
    rows = mesh.all_gather(rows.astype(logits.dtype), None, "embed")

    def add(sums: jax.Array, chunk: tuple) -> tuple[jax.Array, None]:
        hidden, targets, weights = chunk
        scores = score(_live(hidden, weights), rows, bias, targets, logits)
        return sums + _sums_of(scores, weights, logits), None

    chunks = _chunks(len(rows), hidden, targets, weights)
    sums, _ = jax.lax.scan(add, jnp.zeros(4), chunks)
    return (mesh.reduce_scatter(sums, TOKENS, (None,)),)


def _gradients(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    *,
    logits: LogitConfig,
) -> tuple[jax.Array, ...]:
    rows = mesh.all_gather(rows.astype(logits.dtype), None, "embed")

    def add(carry: tuple, chunk: tuple) -> tuple[tuple, jax.Array]:
        sums, drows, dbias = carry
        hidden, targets, weights = chunk
        hidden = _live(hidden, weights)
        scores = score(hidden, rows, bias, targets, logits)
        change = slope(scores, weights, logits)
        dbias = dbias + change.sum(0)
        change = change.astype(hidden.dtype)
        drows = drows + weight_gradient(change, hidden, 1)
        dhidden = dot(change, rows, ((1,), (0,)), None)
        return (sums + _sums_of(scores, weights, logits), drows, dbias), dhidden

    chunks = _chunks(len(rows), hidden, targets, weights)
    zeros = (jnp.zeros(4), jnp.zeros(rows.shape), jnp.zeros(len(rows)))
    (sums, drows, dbias), dhidden = jax.lax.scan(add, zeros, chunks)
    width = hidden.shape[-1]
    dhidden = dhidden.reshape(-1, width)[: targets.size].reshape(hidden.shape)
    dhidden = mesh.reduce_scatter(dhidden, ("vocab",), ("batch", "residual", None))
    return (
        mesh.reduce_scatter(sums, TOKENS, (None,)),
        dhidden.astype(hidden.dtype),
        mesh.reduce_scatter(drows, TOKENS, ROWS),
        mesh.reduce_scatter(dbias, TOKENS, ("vocab",)),
    )


def _nll(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    *,
    logits: LogitConfig,
) -> tuple[jax.Array, ...]:
    rows = mesh.all_gather(rows.astype(logits.dtype), None, "embed")

    def each(chunk: tuple) -> tuple[jax.Array, jax.Array]:
        scores = score(chunk[0], rows, bias, chunk[1], logits)
        return scores.nll, scores.correct

    results = jax.lax.map(each, _chunks(len(rows), hidden, targets))
    return tuple(x.reshape(-1)[: targets.size].reshape(targets.shape) for x in results)
