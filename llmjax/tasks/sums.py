"""What a packed batch's tokens cost, summed over the text that each belongs to."""

import jax
import jax.numpy as jnp

from llmjax.losses.token_loss import nll_at, token_nll
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel import mesh
from llmjax.tasks.states import inside_slots
from llmjax.tasks.task import Batch, body


def segment_nats(
    model: Model, params: Params, batch: Batch, key: jax.Array | None, *, segments: int = 1
) -> jax.Array:
    """Negative log-likelihood of each segment's weighted targets, [R, E x segments] float32."""
    nats = token_nll(model, body(params), batch, dropout_key=key)
    return _sums(batch, nats, segments)


def told_in_slots(
    model: Model, params: Params, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Nats, tokens that are the likeliest, and tokens of each slot, weighted: [R, E] float32."""
    rows, length = batch["inputs"].shape
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    nats, hits = nll_at(model, body(params), batch, places, batch["targets"])
    ones = jnp.ones_like(nats)
    return _sums(batch, nats), _sums(batch, hits.astype(jnp.float32)), _sums(batch, ones)


def _sums(batch: Batch, values: jax.Array, segments: int = 1) -> jax.Array:
    """[R, L] values, weighted, to their sums over segments."""
    weights = mesh.reshard(batch["weights"], "batch", None)
    values = mesh.reshard(values, "batch", None)
    weighted = jnp.where(weights > 0, weights * values, 0.0)
    inside = inside_slots(batch, segments)
    return jnp.where(inside, weighted[:, None, :], 0.0).sum(-1)
