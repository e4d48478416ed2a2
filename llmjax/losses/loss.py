"""What a loss gives: one sum to differentiate, and named sums to report.

Means are taken once, over the global batch, so everything here is a sum with its weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.parallel.mesh import out_sharding


@dataclass(frozen=True)
class LossConfig:
    """What training minimises beside the cross-entropy."""

    z_loss: float = 0.0
    """Weight of log(sum of exp(logits))^2, which keeps logits small (PaLM uses 1e-4)."""
    label_smoothing: float = 0.0
    """Share of the target's probability spread evenly over the vocabulary."""


class Sum(NamedTuple):
    """A quantity summed over a batch, float32 []; its mean is total / weight."""

    total: jax.Array
    weight: jax.Array


class Loss(NamedTuple):
    """The loss of a batch, or of a part of one: all of it adds up over parts."""

    objective: jax.Array
    """What is differentiated, summed, float32 []."""
    weight: jax.Array
    """What it is divided by, over the global batch, float32 []."""
    sums: dict[str, Sum]
    """What is reported, by the names of metrics.jsonl: "loss" (negative log-likelihood in nats, or
    whatever else is comparable between runs) and any others."""


def likelihood_loss(
    objective: jax.Array, nll: jax.Array, weight: jax.Array, correct: jax.Array | None = None
) -> Loss:
    """The loss of predictions that have a likelihood.

    Args:
      objective: float32 [], summed.
      nll: negative log-likelihood of the targets, summed.
      weight: of the targets, summed.
      correct: weights of correct predictions, summed; None: there is no right or wrong.
    """
    sums = {"loss": Sum(nll, weight)}
    if correct is not None:
        sums["accuracy"] = Sum(correct, weight)
    return Loss(objective, weight, sums)


def with_aux(loss: Loss, aux: Mapping[str, tuple[jax.Array, jax.Array]]) -> Loss:
    """The loss with the mean of each of the model's named sums added, and each reported as well.

    Args:
      loss: of the predictions.
      aux: name -> sum and weight, float32 [], such as a router's.
    """
    for name, (total, weight) in aux.items():
        mean = total / jnp.maximum(weight, jnp.finfo(jnp.float32).tiny)
        objective = loss.objective + loss.weight * mean
        loss = Loss(objective, loss.weight, {**loss.sums, name: Sum(total, weight)})
    return loss


def with_bits_per_byte(
    loss: Loss, targets: jax.Array, weights: jax.Array, token_bytes: jax.Array
) -> Loss:
    """The loss with the sum "bits_per_byte" as well, where the targets are all of a text.

    Args:
      loss: with the sum "loss", in nats.
      targets: int32 [B, L].
      weights: float32 [B, L].
      token_bytes: int32 [vocab], the UTF-8 bytes of text of each token.
    """
    sizes = token_bytes.at[targets].get(out_sharding=out_sharding("batch", "length"))
    size = jnp.sum(jnp.where(weights > 0, sizes, 0).astype(jnp.float32))
    bits = Sum(loss.sums["loss"].total / math.log(2), size)
    return loss._replace(sums={**loss.sums, "bits_per_byte": bits})
