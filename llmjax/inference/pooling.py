"""Hidden states of texts, pooled into one vector per text."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.decoding.rows import bucket, padded
from llmjax.inference.language_model import LanguageModel
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import place, reshard, rounded_up
from llmjax.run.origin import Pooling


class PoolingSpec(NamedTuple):
    """How token states are pooled into one vector.

    Attributes:
      kinds: poolings, whose vectors are concatenated.
      skipped: leading tokens that are excluded: those of a prompt.
    """

    kinds: tuple[Pooling, ...]
    skipped: int = 0


class TextBatch(NamedTuple):
    """Model inputs for texts: int32 [rows, length] each, on the devices.

    Attributes:
      tokens: right-padded.
      segments: 1, and 0 for padding.
      types: segment types.
    """

    tokens: jax.Array
    segments: jax.Array
    types: jax.Array


def text_batch(
    lm: LanguageModel, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> TextBatch:
    """Place rows on the devices; number and length are rounded up, so that few shapes compile."""
    tokens, types = zip(*rows, strict=True)
    limit = lm.model.config.max_length
    segments = padded([[1] * len(row) for row in tokens], limit)
    arrays = [padded(tokens, limit), segments, padded(types, limit)]
    count = rounded_up(min(bucket(len(rows), 1), batch_size), lm.mesh, "batch")
    length = rounded_up(segments.shape[1], lm.mesh, "residual")
    padding = [(0, count - len(rows)), (0, length - segments.shape[1])]
    return TextBatch(*(place(np.pad(array, padding), lm.mesh, "batch", None) for array in arrays))


def states(model: Model, params: Params, batch: TextBatch) -> jax.Array:
    """Return the last hidden states, [B, L, D]; of an encoder-decoder, the encoder's."""
    if model.config.is_encoder_decoder:
        return model.encode(params, batch.tokens, batch.segments)
    types = batch.types if model.config.token_types else None
    return model.hidden(params, batch.tokens, segments=batch.segments, token_types=types)


@partial(jax.jit, static_argnames=("model", "pooling"))
def pooled_states(
    model: Model, params: Params, batch: TextBatch, pooling: PoolingSpec
) -> jax.Array:
    """Pool the hidden states, float32 [B, D x poolings], replicated on every device."""
    x = reshard(states(model, params, batch).astype(jnp.float32), "batch", None, None)
    inside = reshard(batch.segments, "batch", None) > 0
    inside &= jnp.arange(x.shape[1]) >= pooling.skipped
    pooled = jnp.concatenate([_pooled(kind, x, inside) for kind in pooling.kinds], axis=-1)
    return reshard(pooled, None, None)


def _pooled(kind: Pooling, x: jax.Array, inside: jax.Array) -> jax.Array:
    """Pool states [B, L, D] where `inside` [B, L] is true: [B, D]."""
    positions = jnp.arange(x.shape[1])
    match kind:
        case "mean" | "mean_sqrt" | "weighted_mean":
            weights = inside * (positions + 1.0 if kind == "weighted_mean" else 1.0)
            total = jnp.where(inside[..., None], x * weights[..., None], 0).sum(axis=1)
            divisor = jnp.maximum(weights.sum(axis=1), 1e-9)
            divisor = jnp.sqrt(divisor) if kind == "mean_sqrt" else divisor
            return total / divisor[:, None]
        case "max":
            return jnp.where(inside[..., None], x, -jnp.inf).max(axis=1)
        case "cls":
            index = inside.argmax(axis=1)
        case "last":
            index = x.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    return jnp.where((positions == index[:, None])[..., None], x, 0).sum(axis=1)
