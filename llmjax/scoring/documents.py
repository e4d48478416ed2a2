"""Scores documents with a causal model.

Every token of a document counts once, end-of-text included; the first is predicted from BOS. Bits
per byte = nats / (ln 2 x UTF-8 bytes of the original text), both summed over all documents, so that
models with different tokenizers are comparable. Losses are returned per token and summed on the
host in float64.
"""

from collections.abc import Iterable, Iterator
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.data.text.corpus import Document
from llmjax.data.tokenizers.tokenizer import Tokenizer, utf8
from llmjax.decoding.rows import bucket
from llmjax.errors import UserError
from llmjax.interruption import between_batches
from llmjax.losses.token_loss import token_nll
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import place, reshard, rounded_up, use_mesh
from llmjax.scoring.totals import Score, ScoreAccumulator, TextScore
from llmjax.scoring.windows import Slot, Window, cut_windows, pack


def score_documents(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    mesh: Mesh | None = None,
) -> Score:
    """Score complete documents, each ended by the end-of-text token.

    Every process of a run calls this with the same documents and gets the same score.

    Args:
      model: a decoder without encoder.
      params: its parameters.
      tokenizer: of the documents.
      documents: may be a stream.
      context: tokens per window; None for the model's maximum.
      stride: of the sliding window; None for half of the context.
      batch_size: rows per batch.
      mesh: of the parameters; None for one device.

    Raises:
      UserError: context or stride is invalid for the model, or there is no text.
    """
    sizes = window_sizes(model.config, context, stride)
    streams = ([document] for document in documents)
    return score_streams(model, params, tokenizer, streams, sizes, batch_size, mesh)


def score_streams(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    streams: Iterable[Iterable[Document]],
    sizes: tuple[int, int],
    batch_size: int,
    mesh: Mesh | None,
) -> Score:
    """Like score_documents, for documents of any length that arrive in consecutive pieces.

    Each stream is one document, whose pieces have some of its tokens and bytes. `sizes` is
    (context, stride) from window_sizes.
    """
    context, stride = sizes
    totals = ScoreAccumulator(context, tokenizer.token_bytes())
    windows = (
        window
        for pieces in streams
        for window in cut_windows(totals.read(pieces), tokenizer.bos_id, context, stride)
    )
    for window, nats in window_nats(model, params, windows, context, batch_size, mesh):
        totals.add(window, nats)
    if not totals.bytes:
        raise UserError("text to score", "is empty", "give at least one byte")
    return totals.score(context, stride)


def score_text(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int | None = None,
    stride: int | None = None,
    batch_size: int = 16,
    mesh: Mesh | None = None,
) -> TextScore:
    """Score one text token by token, in rows no longer than it needs (rounded up).

    Raises:
      UserError: as score_documents.
    """
    context, stride = window_sizes(model.config, context, stride)
    token_bytes = tokenizer.token_bytes()
    totals = ScoreAccumulator(context, token_bytes)
    tokens = np.array([*tokenizer.encode(text), tokenizer.eos_id], np.int32)
    document = Document(tokens, len(utf8(text)))
    if not text:
        raise UserError("text to score", "is empty", "give at least one byte")
    windows = list(cut_windows(totals.read([document]), tokenizer.bos_id, context, stride))
    length = min(context, bucket(max(map(len, windows))))
    rows = min(batch_size, bucket(len(windows), 1))
    nats = []
    for window, values in window_nats(model, params, windows, length, rows, mesh):
        totals.add(window, values)
        nats.append(values)
    score = totals.score(context, stride)
    return TextScore(tokens, np.concatenate(nats), token_bytes[tokens], score)


def window_nats(
    model: Model,
    params: Params,
    windows: Iterable[Window],
    context: int,
    batch_size: int,
    mesh: Mesh | None,
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yield each window with the nats of the targets that it counts, float64 [n - skip].

    All batches have one compiled shape. Results are read while the next batch runs.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    rows, length = rounded_up(batch_size, mesh, "batch"), rounded_up(context, mesh, "residual")
    pending: tuple[jax.Array, list[Slot]] | None = None
    for batch, slots in pack(windows, rows, length):
        between_batches()
        on_device = {name: place(array, mesh, "batch", "length") for name, array in batch.items()}
        with use_mesh(mesh):
            running = document_nats(model, params, on_device), slots
        if pending is not None:
            yield from _read(*pending)
        pending = running
    if pending is not None:
        yield from _read(*pending)


def window_sizes(config: ModelConfig, context: int | None, stride: int | None) -> tuple[int, int]:
    """Return context and stride, with defaults filled in and checked against the model.

    Raises:
      UserError: the model is not a decoder without encoder, or a size is out of range.
    """
    if config.num_encoder_layers or not config.num_decoder_layers:
        raise UserError("this model", "is not a causal decoder", "scoring needs a causal decoder")
    context = config.max_length if context is None else context
    if not 1 <= context <= config.max_length:
        raise UserError(
            f"context {context}", "does not fit the model", f"choose 1 to {config.max_length}"
        )
    stride = max(1, context // 2) if stride is None else stride
    if not 1 <= stride <= context:
        raise UserError(
            f"stride {stride}", "would skip tokens or stand still", f"choose 1 to {context}"
        )
    return context, stride


@partial(jax.jit, static_argnames="model")
def document_nats(model: Model, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
    """Return the nats of each target, [R, L], replicated."""
    # All processes need all values, which are small: four bytes per token.
    return reshard(token_nll(model, params, batch), None, None)


def _read(nats: jax.Array, slots: list[Slot]) -> Iterator[tuple[Window, np.ndarray]]:
    values = np.asarray(nats, np.float64)
    return ((slot.window, slot.read(values)) for slot in slots)
