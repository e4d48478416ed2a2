"""Scores documents with a causal model.

Every token of a document counts once, its end-of-text token too; the first one is predicted from
BOS. Bits per byte = nats / (ln 2 x UTF-8 bytes of the original text), of sums over all documents,
so that models with different tokenizers compare. Losses come back from the device token by token
and are added up on the host in float64.
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
    """Scores whole documents, whose last token is their end-of-text token.

    With several processes each of them calls this with the same documents and gets the same score.

    Args:
      model: a decoder without encoder.
      params: its parameters.
      tokenizer: the one that the documents are encoded with.
      documents: may be a stream.
      context: tokens of a window; None for the longest row that the model takes.
      stride: tokens from one window to the next; None for half of the context.
      batch_size: rows at once.
      mesh: where params live; None for one device.

    Raises:
      UserError: the windows do not suit the model, or there is no text.
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
    """As score_documents, for documents that come in consecutive pieces: files of any length.

    Each stream is one document; its pieces have some of the tokens and of the bytes each. `sizes`
    are context and stride, as window_sizes gives them.
    """
    context, stride = sizes
    sums = ScoreAccumulator(context, tokenizer.token_bytes())
    windows = (
        window
        for pieces in streams
        for window in cut_windows(sums.read(pieces), tokenizer.bos_id, context, stride)
    )
    for window, nats in window_nats(model, params, windows, context, batch_size, mesh):
        sums.add(window, nats)
    if not sums.bytes:
        raise UserError("text to score", "there is none", "give at least one byte of it")
    return sums.score(context, stride)


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
    """Scores one text, token by token; rows are no longer than it needs (rounded up).

    Raises:
      UserError: as score_documents.
    """
    context, stride = window_sizes(model.config, context, stride)
    token_bytes = tokenizer.token_bytes()
    sums = ScoreAccumulator(context, token_bytes)
    tokens = np.array([*tokenizer.encode(text), tokenizer.eos_id], np.int32)
    whole = [Document(tokens, len(utf8(text)))]
    if not text:
        raise UserError("text to score", "there is none", "give at least one byte of it")
    cut = list(cut_windows(sums.read(whole), tokenizer.bos_id, context, stride))
    length = min(context, bucket(max(map(len, cut))))
    rows = min(batch_size, bucket(len(cut), 1))
    nats = []
    for window, values in window_nats(model, params, cut, length, rows, mesh):
        sums.add(window, values)
        nats.append(values)
    score = sums.score(context, stride)
    return TextScore(tokens, np.concatenate(nats), token_bytes[tokens], score)


def window_nats(
    model: Model,
    params: Params,
    items: Iterable[Window],
    context: int,
    batch_size: int,
    mesh: Mesh | None,
) -> Iterator[tuple[Window, np.ndarray]]:
    """Yields each window with the nats of the targets that it counts, float64 [n - skip].

    All batches have one compiled shape. A batch is read only when the next one is under way.
    """
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}", "is not positive")
    rows, length = rounded_up(batch_size, mesh, "batch"), rounded_up(context, mesh, "residual")
    pending: tuple[jax.Array, list[Slot]] | None = None
    for batch, slots in pack(items, rows, length):
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
    """Context and stride, None filled in and checked against the model.

    Raises:
      UserError: the model is not a plain decoder, or a size is out of its range.
    """
    if config.num_encoder_layers or not config.num_decoder_layers:
        raise UserError("this model", "is not a causal decoder", "only such a model can be scored")
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
    # Every process needs all of them, and they are few: four bytes a token.
    return reshard(token_nll(model, params, batch), None, None)


def _read(nats: jax.Array, slots: list[Slot]) -> Iterator[tuple[Window, np.ndarray]]:
    values = np.asarray(nats, np.float64)
    return ((slot.window, slot.read(values)) for slot in slots)
