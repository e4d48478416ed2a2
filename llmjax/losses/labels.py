"""Losses of labels and numbers: sums over examples, each with its weight."""

import jax
import jax.numpy as jnp


def softmax_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array, smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One label of several.

    Args:
      logits: [..., C] float32; classes of -inf are no choice.
      targets: [...] int32.
      weights: [...]; where one is 0, nothing is added.
      smoothing: share of the target that is spread evenly over all C (arXiv:1512.00567); only
        where all are a choice.

    Returns:
      Sums, float32 []: the smoothed objective, nats, weights, and weights of what is told rightly.
    """
    weights = weights.astype(jnp.float32)
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    hit = jnp.arange(logits.shape[-1]) == targets[..., None]
    nats = -jnp.where(hit, logs, 0.0).sum(-1)
    objective = nats if not smoothing else (1 - smoothing) * nats - smoothing * logs.mean(-1)
    right = jnp.argmax(logits, axis=-1) == targets
    live = weights > 0

    def total(values: jax.Array) -> jax.Array:
        return jnp.where(live, weights * values, 0.0).sum()

    return total(objective), total(nats), weights.sum(), total(right.astype(jnp.float32))


def sigmoid_cross_entropy(
    logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Any number of C labels; each is a choice by itself, an example's loss is their mean.

    Args:
      logits: [..., C] float32.
      targets: [..., C], 0 or 1.
      weights: [...]; where one is 0, nothing is added.

    Returns:
      Sums, float32 []: nats, weights, and weights x the share of labels that are told rightly.
    """
    weights = weights.astype(jnp.float32)
    targets = targets.astype(jnp.float32)
    nats = (jax.nn.softplus(logits) - targets * logits).mean(-1)
    right = ((logits > 0) == (targets > 0)).astype(jnp.float32).mean(-1)
    live = weights > 0

    def total(values: jax.Array) -> jax.Array:
        return jnp.where(live, weights * values, 0.0).sum()

    return total(nats), weights.sum(), total(right)
