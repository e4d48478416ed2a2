"""Loss values: one sum to differentiate, and named sums to report.

Means are taken once, over the global batch, so every value here is a sum with its weight.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.parallel.mesh import out_sharding

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux


@dataclass(frozen=True)
class LossConfig:
    """Terms of the training objective besides the cross-entropy."""

    z_loss: float = 0.0
    """Weight of log(sum of exp(logits))^2, which keeps logits small (PaLM uses 1e-4)."""
    label_smoothing: float = 0.0
    """Fraction of the target's probability spread evenly over the vocabulary."""
    multi_token_weight: float = 0.3
    """Weight of the loss of tokens after next, in models with model.multi_token (DeepSeek-V3: 0.3,
    at last 0.1)."""


class Sum(NamedTuple):
    """A quantity summed over a batch, float32 []; its mean is total / weight."""

    total: jax.Array
    weight: jax.Array


class Loss(NamedTuple):
    """The loss of a batch or microbatch; every field adds up over microbatches."""

    objective: jax.Array
    """Sum to differentiate, float32 []."""
    weight: jax.Array
    """Divisor of the objective over the global batch, float32 []."""
    sums: dict[str, Sum]
    """Reported metrics by their names in metrics.jsonl: "loss" (negative log-likelihood in nats, or
    another value that is comparable between runs) and any others."""


def likelihood_loss(
    objective: jax.Array, nll: jax.Array, weight: jax.Array, correct: jax.Array | None = None
) -> Loss:
    """Makes the loss of predictions that have a likelihood.

    Args:
      objective: float32 [], summed.
      nll: negative log-likelihood of the targets, summed.
      weight: of the targets, summed.
      correct: weights of correct predictions, summed; None: no accuracy is reported.
    """
    sums = {"loss": Sum(nll, weight)}
    if correct is not None:
        sums["accuracy"] = Sum(correct, weight)
    return Loss(objective, weight, sums)


def with_aux(loss: Loss, aux: "Aux") -> Loss:
    """Adds the mean penalty of each of the model's named sums to the loss, and reports the sums.

    Args:
      loss: of the predictions.
      aux: sums by name, such as a router's.
    """
    for name, (total, weight, penalty) in aux.items():
        mean = penalty / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
        objective = loss.objective + loss.weight * mean
        loss = Loss(objective, loss.weight, {**loss.sums, name: Sum(total, weight)})
    return loss


def with_bits_per_byte(
    loss: Loss, targets: jax.Array, weights: jax.Array, token_bytes: jax.Array
) -> Loss:
    """Adds the sum "bits_per_byte" to a loss whose targets cover the whole text.

    Args:
      loss: with the sum "loss", in nats.
      targets: int32 [B, L].
      weights: float32 [B, L].
      token_bytes: int32 [vocab], UTF-8 bytes of each token's text.
    """
    sizes = token_bytes.at[targets].get(out_sharding=out_sharding("batch", "length"))
    size = jnp.sum(jnp.where(weights > 0, sizes, 0).astype(jnp.float32))
    bits = Sum(loss.sums["loss"].total / math.log(2), size)
    return loss._replace(sums={**loss.sums, "bits_per_byte": bits})
