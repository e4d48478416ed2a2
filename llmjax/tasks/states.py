"""States of a packed batch's tokens and texts."""

import jax
import jax.numpy as jnp

from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.products import einsum
from llmjax.parallel import mesh
from llmjax.tasks.task import Batch, body

READ = (
    "positions",
    "segments",
    "token_types",
    "encoder_tokens",
    "encoder_positions",
    "encoder_segments",
)


def token_states(model: Model, params: Params, batch: Batch, key: jax.Array | None) -> jax.Array:
    """The last layer's state of each token, [R, L, D] in the compute dtype, rows whole."""
    names = [name for name in READ if name != "token_types" or model.config.token_types]
    given = {name: batch[name] for name in names if name in batch}
    hidden = model.hidden(body(params), batch["inputs"], **given, dropout_key=key)
    return mesh.reshard(hidden, "batch", None, None)


def text_states(
    model: Model, params: Params, batch: Batch, key: jax.Array | None, *, segments: int = 1
) -> jax.Array:
    """The state that stands for each segment, [R, E x segments, D] in the compute dtype: of an
    encoder the first token's, of a decoder the last one's; 0 where there is none."""
    states = token_states(model, params, batch, key)
    inside = inside_slots(batch, segments)
    ahead = jnp.cumsum(inside, axis=2)
    if model.config.num_decoder_layers:
        chosen = inside & (ahead == inside.sum(axis=2, keepdims=True))
    else:
        chosen = inside & (ahead == 1)
    return einsum("rel,rld->red", chosen.astype(states.dtype), states).astype(states.dtype)


def inside_slots(batch: Batch, segments: int = 1) -> jax.Array:
    """bool [R, E x segments, L]: whether a token belongs to a segment."""
    owner = mesh.reshard(batch["segments"], "batch", None)
    numbers = jnp.arange(1, 1 + segments * batch["slot_weights"].shape[1])
    return owner[:, None, :] == numbers[None, :, None]
