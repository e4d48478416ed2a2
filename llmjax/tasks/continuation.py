"""Prompts and continuations as segments, shared by the generation tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.losses.token_loss import nll_and_aux, nll_at
from llmjax.parallel import mesh
from llmjax.tasks.examples import Segment
from llmjax.tasks.task import Batch, TaskContext, body
from llmjax.tasks.token_tasks import slot_mask

if TYPE_CHECKING:
    from llmjax.data.tokenizers.tokenizer import Tokenizer
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params


class Continuation(NamedTuple):
    """An encoded prompt with its continuation.

    Attributes:
      segment: model input; only the continuation's tokens have weight.
      prompt: the prompt's tokens; of an encoder-decoder, the encoder's input.
      cut: whether either text was truncated.
    """

    segment: Segment
    prompt: list[int]
    cut: bool


def encode_after(tokenizer: "Tokenizer", before: str, ids: Sequence[int], text: str) -> list[int]:
    """Tokenize `text` as the continuation of `before`, whose tokens are `ids`.

    Both texts are encoded together where that preserves `ids`, so that the continuation has the
    tokens that the model would generate.
    """
    both = tokenizer.encode(before + text)
    return both[len(ids) :] if both[: len(ids)] == list(ids) else tokenizer.encode(text)


def continuation(
    context: TaskContext, before: Sequence[int], text: Sequence[int] | None
) -> Continuation:
    """Build a continuation from a prompt, a text and the end-of-text token.

    To fit a row, first the text's end is cut while it takes more than half of the row; then the
    start of a decoder's prompt, or the end of an encoder's input.

    Args:
      context: of the task.
      before: the prompt's tokens, without special tokens.
      text: the text's tokens; None if unknown: then no token has weight.
    """
    if context.model.is_encoder_decoder:
        return _encoder_decoder(context, before, text)
    tokenizer, length = context.tokenizer, context.length
    head = [*tokenizer.prefix, *before] or [tokenizer.bos_id]
    if text is None:
        kept = head[-length:]
        segment = Segment(kept, targets=[0] * len(kept), weights=[0.0] * len(kept))
        return Continuation(segment, kept, len(kept) < len(head))
    tail = [*text, tokenizer.eos_id]
    # The last token is predicted, never read.
    most = max(length + 1 - len(head), (length + 1) // 2)
    kept, tail_kept = head[-(length + 1 - min(most, len(tail))) :], tail[:most]
    both = [*kept, *tail_kept]
    weights = [0.0] * (len(kept) - 1) + [1.0] * len(tail_kept)
    segment = Segment(both[:-1], targets=both[1:], weights=weights)
    return Continuation(segment, kept, len(both) < len(head) + len(tail))


def _encoder_decoder(
    context: TaskContext, before: Sequence[int], text: Sequence[int] | None
) -> Continuation:
    tokenizer, length = context.tokenizer, context.length
    space = max(1, length - len(tokenizer.wrap([])[0]))
    source = tokenizer.wrap(list(before)[:space])[0] or [tokenizer.eos_id]
    target = [tokenizer.eos_id] if text is None else [*text, tokenizer.eos_id]
    tail = target[:length]
    segment = Segment(
        [tokenizer.bos_id, *tail[:-1]],
        targets=tail,
        weights=[0.0 if text is None else 1.0] * len(tail),
        source=source,
    )
    return Continuation(segment, source, len(before) > space or len(tail) < len(target))


def span_segment(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Segment:
    """Build a segment with next-token targets on the tokens of some spans, [first, end) each."""
    weights = np.zeros(len(ids), np.float32)
    for first, end in spans:
        weights[first:end] = 1
    return Segment(list(ids[:-1]), targets=list(ids[1:]), weights=weights[1:].tolist())


def segment_nll(
    model: "Model", params: "Params", batch: Batch, key: jax.Array | None, *, segments: int = 1
) -> "tuple[jax.Array, Aux]":
    """Return each segment's weighted negative log-likelihood in nats, [R, E x segments] float32,
    and the sums that layers report."""
    nll, aux = nll_and_aux(model, body(params), batch, key)
    return _segment_sums(batch, nll, segments), aux


def slot_totals(
    model: "Model", params: "Params", batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return each slot's weighted negative log-likelihood, correct tokens and tokens: [R, E]
    float32 each."""
    rows, length = batch["inputs"].shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    nll, correct = nll_at(model, body(params), batch, positions, batch["targets"])
    values = (nll, correct.astype(jnp.float32), jnp.ones_like(nll))
    return tuple(_segment_sums(batch, value) for value in values)  # type: ignore[return-value]


def _segment_sums(batch: Batch, values: jax.Array, segments: int = 1) -> jax.Array:
    """Sum weighted values [R, L] over segments."""
    weights = mesh.reshard(batch["weights"], "batch", None)
    values = mesh.reshard(values, "batch", None)
    weighted = jnp.where(weights > 0, weights * values, 0.0)
    inside = slot_mask(batch, segments)
    return jnp.where(inside, weighted[:, None, :], 0.0).sum(-1)
