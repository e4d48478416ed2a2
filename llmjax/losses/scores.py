"""Logits, losses and derivatives of one chunk of hidden states.

These run inside `mesh.per_device`, on each device's part of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.model.compute import Precision
from llmjax.model.products import dot
from llmjax.model.softcap import soft_cap, soft_cap_gradient
from llmjax.parallel import mesh


class LogitConfig(NamedTuple):
    """How hidden states become logits, and logits a loss."""

    softcap: float | None
    z_loss: float
    smoothing: float
    vocab: int
    precision: Precision
    saves_memory: bool = False
    """Whether a large gradient of the head may take a third more products, not to be whole on a
    device."""


class Scores(NamedTuple):
    """Scores of a chunk of n tokens over this device's V columns of the vocabulary."""

    z: jax.Array
    """[n, V] logits, float32."""
    exp_scores: jax.Array
    """[n, V] exp(z - a maximum)."""
    partition: jax.Array
    """[n] sum of exp_scores over the whole vocabulary."""
    log_partition: jax.Array
    """[n] log of the sum of exp(z)."""
    column: jax.Array
    """[n] the target's column in this part; out of range if it is in another."""
    nll: jax.Array
    """[n] negative log-likelihood of the target, nats."""
    correct: jax.Array
    """[n] bool: no logit is larger than the target's."""


def score(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    logits: LogitConfig,
) -> Scores:
    """Scores [n, D] hidden states by this device's rows [V, D]."""
    z = _logits(hidden, rows, bias, logits)
    vocab = mesh.mesh_axes("vocab")
    top = jax.lax.pmax(z.max(-1), vocab)
    exp_scores = jnp.exp(z - top[:, None])
    partition = jax.lax.psum(exp_scores.sum(-1), vocab)
    column = targets - z.shape[1] * mesh.part_index("vocab")
    column = jnp.where(column < 0, z.shape[1], column)
    target = jnp.take_along_axis(z, column[:, None], 1, mode="fill", fill_value=0.0)[:, 0]
    target = jax.lax.psum(target, vocab)
    log_partition = top + jnp.log(partition)
    return Scores(
        z, exp_scores, partition, log_partition, column, log_partition - target, target >= top
    )


def score_again(
    hidden: jax.Array,
    rows: jax.Array,
    bias: jax.Array | None,
    known: tuple[jax.Array, jax.Array],
    logits: LogitConfig,
) -> Scores:
    """Scores hidden states by some rows, with what `score` found for all of them.

    Args:
      hidden: [n, D].
      rows: [V, D].
      bias: [V] or None.
      known: [n] log_partition, and the column of the target among these rows.
      logits: how hidden states become logits.

    Returns:
      Scores for `slope`, without nll and correct predictions.
    """
    z, (log_partition, column) = _logits(hidden, rows, bias, logits), known
    column = jnp.where(column < 0, z.shape[1], column)
    none = jnp.zeros_like(log_partition)
    exp_scores = jnp.exp(z - log_partition[:, None])
    return Scores(z, exp_scores, none + 1.0, log_partition, column, none, none > 0)


def _logits(
    hidden: jax.Array, rows: jax.Array, bias: jax.Array | None, logits: LogitConfig
) -> jax.Array:
    z = dot(hidden, rows, ((1,), (1,)), None)
    z = z if bias is None else z + bias
    return soft_cap(z, logits.softcap)


def objective(scores: Scores, logits: LogitConfig) -> jax.Array:
    """[n] the loss of each token, with z-loss and smoothing."""
    nll = scores.nll
    if logits.smoothing:
        mean = jax.lax.psum(scores.z.sum(-1), mesh.mesh_axes("vocab")) / logits.vocab
        nll = nll + logits.smoothing * (scores.log_partition - mean - nll)
    return nll + logits.z_loss * jnp.square(scores.log_partition)


def slope(scores: Scores, weights: jax.Array, logits: LogitConfig) -> jax.Array:
    """[n, V] derivative of the weighted objective by the products of hidden and rows."""
    gain = (1.0 + 2.0 * logits.z_loss * scores.log_partition) / scores.partition
    is_target = jnp.arange(scores.z.shape[1]) == scores.column[:, None]
    slope = scores.exp_scores * gain[:, None] - jnp.where(is_target, 1.0 - logits.smoothing, 0.0)
    slope = (slope - logits.smoothing / logits.vocab) * weights[:, None]
    return soft_cap_gradient(slope, scores.z, logits.softcap)
