"""Losses of labels and of numbers, weighted by example."""

import jax
import jax.numpy as jnp

from llmjax.losses.loss import Loss, likelihood_loss

NEVER = -1e30  # a logit whose exponential is 0, and whose gradient is finite


def softmax_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, smoothing: float = 0.0
) -> Loss:
    """Cross-entropy of one label of several.

    Args:
      logits: [..., C] float32; classes at -inf or `NEVER` are excluded.
      targets: [...] int32.
      weights: [...]; examples of weight 0 add nothing.
      smoothing: fraction of the target spread evenly over all C (arXiv:1512.00567); only where
        no class is excluded.

    Returns:
      The loss, its objective smoothed, with the sums "loss" (nats) and "accuracy".
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    nll = -jnp.where(is_target, log_p, 0.0).sum(-1)
    objective = nll if not smoothing else (1 - smoothing) * nll - smoothing * log_p.mean(-1)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    return _loss(weights, objective, nll, correct)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
    """Binary cross-entropy of C independent labels; an example's loss is their mean.

    Args:
      logits: [..., C] float32.
      targets: [..., C], 0 or 1.
      weights: [...]; examples of weight 0 add nothing.

    Returns:
      The loss, with the sums "loss" (nats) and "accuracy" (the fraction of correct labels).
    """
    targets = targets.astype(jnp.float32)
    nll = (jax.nn.softplus(logits) - targets * logits).mean(-1)
    correct = ((logits > 0) == (targets > 0)).astype(jnp.float32).mean(-1)
    return _loss(weights, nll, nll, correct)


def mean_squared_error(predictions: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
    """Squared error of numbers; the sum "loss" is their mean.

    Args:
      predictions: any shape.
      targets: the same shape.
      weights: the same shape; predictions of weight 0, even NaN, add nothing.
    """
    weights = weights.astype(jnp.float32)
    live = weights != 0
    error = jnp.where(live, predictions, 0).astype(jnp.float32) - jnp.where(live, targets, 0)
    total = (weights * jnp.square(error)).sum()
    return likelihood_loss(total, total, weights.sum())


def _loss(weights: jax.Array, objective: jax.Array, nll: jax.Array, correct: jax.Array) -> Loss:
    """The weighted loss of examples, each argument [...]."""
    weights = weights.astype(jnp.float32)
    live = weights > 0

    def total(values: jax.Array) -> jax.Array:
        return jnp.where(live, weights * values, 0.0).sum()

    return likelihood_loss(total(objective), total(nll), weights.sum(), total(correct))
