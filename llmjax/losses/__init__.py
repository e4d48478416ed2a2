"""Losses as sums with their weights: means are taken once, over the global batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from llmjax.losses.fused import cross_entropy, nats_and_hits, nats_of
from llmjax.losses.scores import Head
from llmjax.parallel.mesh import reshard

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

__all__ = ["Loss", "LossConfig", "causal_loss", "mean_squared_error", "nats_at", "token_nats"]


@dataclass(frozen=True)
class LossConfig:
    """What training minimises beside the cross-entropy."""

    z_loss: float = 0.0
    """Weight of log(sum of exp(logits))^2, which keeps logits small (PaLM uses 1e-4)."""
    label_smoothing: float = 0.0
    """Share of the target's probability spread evenly over the vocabulary."""


class Loss(NamedTuple):
    """Sums over a batch, float32 scalars; divide by `weight` for means."""

    total: jax.Array
    """The objective, z-loss and smoothing included: the only differentiable one."""
    nats: jax.Array
    """Negative log-likelihood of the targets."""
    weight: jax.Array
    """Tokens, weighted."""
    correct: jax.Array
    """Tokens whose target has the largest logit, weighted."""


def causal_loss(
    model: "Model",
    params: "Params",
    batch: Mapping[str, jax.Array],
    *,
    dropout_key: jax.Array | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Loss:
    """Weighted cross-entropy of the targets, as sums.

    Args:
      model: the model.
      params: its parameters.
      batch: inputs, targets, segments, positions [B, L] int32 and weights [B, L] float32; for an
        encoder-decoder also encoder_tokens, and encoder_segments and encoder_positions where
        rows are padded or packed. A target of weight 0 adds exactly nothing.
      dropout_key: None: no dropout.
      z_loss: see `LossConfig`.
      label_smoothing: see `LossConfig`.
    """
    hidden = _hidden(model, params, batch, dropout_key)
    rows, bias = model.lm_head(params)
    head = _head(model, z_loss, label_smoothing)
    return Loss(*cross_entropy(hidden, rows, bias, batch["targets"], batch["weights"], head))


def token_nats(
    model: "Model",
    params: "Params",
    batch: Mapping[str, jax.Array],
    *,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Negative log-likelihood of each target, [B, L] float32 nats, whatever its weight."""
    hidden = _hidden(model, params, batch, dropout_key)
    rows, bias = model.lm_head(params)
    return nats_of(hidden, rows, bias, batch["targets"], _head(model))


def nats_at(
    model: "Model",
    params: "Params",
    batch: Mapping[str, jax.Array],
    places: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """As token_nats, at some places of each row only: the others are not unembedded.

    Args:
      model: the model.
      params: its parameters.
      batch: as for `causal_loss`, without targets and weights.
      places: int32 [B, K], where in its row.
      targets: int32 [B, K], what is told there.

    Returns:
      Nats [B, K] float32, and bool [B, K]: whether no token is likelier than the target.
    """
    hidden = reshard(_hidden(model, params, batch, None), "batch", None, None)
    at = reshard(places, "batch", None)[..., None]
    rows, bias = model.lm_head(params)
    return nats_and_hits(jnp.take_along_axis(hidden, at, axis=1), rows, bias, targets, _head(model))


def mean_squared_error(
    predictions: jax.Array, targets: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sum of weight * (prediction - target)^2, and the sum of weights; float32 scalars.

    Args:
      predictions: any shape.
      targets: the same shape.
      weights: the same shape; where it is 0, nothing is added, whatever the prediction.
    """
    weights = weights.astype(jnp.float32)
    live = weights != 0
    error = jnp.where(live, predictions, 0).astype(jnp.float32) - jnp.where(live, targets, 0)
    return (weights * jnp.square(error)).sum(), weights.sum()


def _hidden(
    model: "Model", params: "Params", batch: Mapping[str, jax.Array], key: jax.Array | None
) -> jax.Array:
    names = ("positions", "segments", "encoder_tokens", "encoder_positions", "encoder_segments")
    given = {name: batch[name] for name in names if name in batch}
    return model.lm_head_input(
        params, model.hidden(params, batch["inputs"], **given, dropout_key=key)
    )


def _head(model: "Model", z_loss: float = 0.0, smoothing: float = 0.0) -> Head:
    config = model.config
    cap, vocab = config.logit_softcap, config.vocab_size
    return Head(cap, z_loss, smoothing, vocab, model.compute.dtype)
