"""Cross-entropy of a model's tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from llmjax.losses.fused import LossInputs, cross_entropy, nll_and_correct, nll_of
from llmjax.losses.loss import Loss, likelihood_loss, with_aux
from llmjax.losses.scores import LogitConfig
from llmjax.parallel.mesh import reshard

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params

Batch = Mapping[str, jax.Array]
MULTI_TOKEN = 1
"""Folded into the dropout key of the multi-token module."""


def token_loss(
    model: "Model",
    params: "Params",
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    multi_token_weight: float = 0.0,
) -> Loss:
    """Weighted cross-entropy of the targets, with the sums "loss" (nats) and "accuracy"; and
    "multi_token_loss", of tokens after next, where it has a weight and the model a module for it.

    Args:
      model: the model.
      params: its parameters.
      batch: inputs, targets, segments, positions [B, L] int32 and weights [B, L] float32; for an
        encoder-decoder also encoder_tokens, and encoder_segments and encoder_positions where
        rows are padded or packed. A target of weight 0 adds exactly nothing.
      dropout_key: for dropout; None: none.
      z_loss: see `LossConfig`.
      label_smoothing: see `LossConfig`.
      multi_token_weight: see `LossConfig`.
    """
    states, aux = _hidden(model, params, batch, dropout_key)
    inputs = _loss_inputs(model, params, states, batch["targets"])
    logits = _logit_config(model, z_loss, label_smoothing)
    objective, nll, weight, correct = cross_entropy(inputs, batch["weights"], logits)
    loss = with_aux(likelihood_loss(objective, nll, weight, correct), aux)
    if not model.config.multi_token or multi_token_weight == 0.0:
        return loss
    further, aux = _after_next(model, params, states, batch, dropout_key, logits)
    further = with_aux(further, aux)
    sums = {f"multi_token_{name}": total for name, total in further.sums.items()}
    # Both are sums that are divided by the number of targets (equation 24).
    total = loss.objective + multi_token_weight * further.objective
    return Loss(total, loss.weight, loss.sums | sums)


def _after_next(
    model: "Model",
    params: "Params",
    states: jax.Array,
    batch: Batch,
    dropout_key: jax.Array | None,
    logits: LogitConfig,
) -> "tuple[Loss, Aux]":
    """The loss of each token's target of the next token, where that is of the same document."""
    key = None if dropout_key is None else jax.random.fold_in(dropout_key, MULTI_TOKEN)
    rest = {name: batch[name] for name in ("positions", "segments") if name in batch}
    further, aux = model.multi_token_hidden(
        params, states, batch["targets"], **rest, dropout_key=key
    )
    targets, weights = (_following(batch[name]) for name in ("targets", "weights"))
    if "segments" in batch:
        weights = weights * (_following(batch["segments"]) == batch["segments"])
    inputs = _loss_inputs(model, params, further, targets)
    objective, nll, weight, correct = cross_entropy(inputs, weights, logits)
    return likelihood_loss(objective, nll, weight, correct), aux


def _following(x: jax.Array) -> jax.Array:
    """What the next token has of [B, L]; zero for a row's last one."""
    whole = reshard(x, "batch", None)
    return reshard(jnp.pad(whole[:, 1:], ((0, 0), (0, 1))), "batch", "length")


def token_nll(model: "Model", params: "Params", batch: Batch) -> jax.Array:
    """Negative log-likelihood of each target in nats, [B, L] float32; weights are ignored."""
    return nll_and_aux(model, params, batch, None)[0]


def nll_and_aux(
    model: "Model", params: "Params", batch: Batch, dropout_key: jax.Array | None
) -> "tuple[jax.Array, Aux]":
    """As `token_nll`, with dropout, and with the sums that layers report, for `with_aux`."""
    inputs, aux = _inputs(model, params, batch, dropout_key)
    return nll_of(inputs, _logit_config(model)), aux


def nll_at(
    model: "Model", params: "Params", batch: Batch, indices: jax.Array, targets: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `token_nll`, at some tokens of each row: logits are computed for these only.

    Args:
      model: the model.
      params: its parameters.
      batch: as for `token_loss`, without targets and weights.
      indices: int32 [B, K], tokens of each row.
      targets: int32 [B, K], their targets.

    Returns:
      Nats [B, K] float32, and bool [B, K]: whether no token is more likely than the target.
    """
    inputs, _ = _inputs(model, params, {**batch, "targets": targets}, None)
    hidden = reshard(inputs.hidden, "batch", None, None)
    indices = reshard(indices, "batch", None)[..., None]
    selected = inputs._replace(hidden=jnp.take_along_axis(hidden, indices, axis=1))
    return nll_and_correct(selected, _logit_config(model))


def _inputs(
    model: "Model", params: "Params", batch: Batch, dropout_key: jax.Array | None
) -> tuple[LossInputs, "Aux"]:
    """Runs the model: inputs of the loss, and the sums that layers add to it."""
    states, aux = _hidden(model, params, batch, dropout_key)
    return _loss_inputs(model, params, states, batch["targets"]), aux


def _hidden(
    model: "Model", params: "Params", batch: Batch, dropout_key: jax.Array | None
) -> "tuple[jax.Array, Aux]":
    names = ("positions", "segments", "encoder_tokens", "encoder_positions", "encoder_segments")
    rest = {name: batch[name] for name in names if name in batch}
    hidden, aux = model.hidden_and_aux(params, batch["inputs"], **rest, dropout_key=dropout_key)
    return hidden, aux


def _loss_inputs(
    model: "Model", params: "Params", states: jax.Array, targets: jax.Array
) -> LossInputs:
    rows, bias = model.lm_head(params)
    return LossInputs(model.lm_head_input(params, states), rows, bias, targets)


def _logit_config(model: "Model", z_loss: float = 0.0, smoothing: float = 0.0) -> LogitConfig:
    config = model.config
    compute = model.compute
    return LogitConfig(
        config.logit_softcap,
        z_loss,
        smoothing,
        config.vocab_size,
        compute.precision,
        compute.saves_memory,
    )
