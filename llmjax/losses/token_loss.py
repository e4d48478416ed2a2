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


def token_loss(
    model: "Model",
    params: "Params",
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Loss:
    """Weighted cross-entropy of the targets, with the sums "loss" (nats) and "accuracy".

    Args:
      model: the model.
      params: its parameters.
      batch: inputs, targets, segments, positions [B, L] int32 and weights [B, L] float32; for an
        encoder-decoder also encoder_tokens, and encoder_segments and encoder_positions where
        rows are padded or packed. A target of weight 0 adds exactly nothing.
      dropout_key: for dropout; None: none.
      z_loss: see `LossConfig`.
      label_smoothing: see `LossConfig`.
    """
    inputs, aux = _inputs(model, params, batch, dropout_key)
    logits = _logit_config(model, z_loss, label_smoothing)
    objective, nll, weight, correct = cross_entropy(inputs, batch["weights"], logits)
    return with_aux(likelihood_loss(objective, nll, weight, correct), aux)


def token_nll(
    model: "Model", params: "Params", batch: Batch, *, dropout_key: jax.Array | None = None
) -> jax.Array:
    """Negative log-likelihood of each target in nats, [B, L] float32; weights are ignored."""
    return nll_of(_inputs(model, params, batch, dropout_key)[0], _logit_config(model))


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
    names = ("positions", "segments", "encoder_tokens", "encoder_positions", "encoder_segments")
    rest = {name: batch[name] for name in names if name in batch}
    hidden, aux = model.hidden_and_aux(params, batch["inputs"], **rest, dropout_key=dropout_key)
    rows, bias = model.lm_head(params)
    hidden = model.lm_head_input(params, hidden)
    return LossInputs(hidden, rows, bias, batch["targets"]), aux


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
