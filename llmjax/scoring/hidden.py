"""Scores documents with a denoising objective: masked tokens, spans, the rest of a text.

What is hidden is drawn from a fixed seed, so the same documents have the same targets.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.data.batch import Arrays
from llmjax.data.objectives.config import Objective
from llmjax.data.objectives.windows import read_windows
from llmjax.data.text.corpus import Document
from llmjax.data.text.store import TokenStore
from llmjax.errors import UserError
from llmjax.interruption import between_batches
from llmjax.losses.token_loss import nll_at
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import place, reshard, rounded_up, use_mesh
from llmjax.scoring.totals import DocumentTotals, Totals

SEED = 0x48656C64
"""Seed of the hidden tokens."""


@dataclass(frozen=True)
class HiddenScore(Totals):
    """Sums over hidden tokens. Bits per byte are undefined, since most of the text is visible.

    Attributes:
      correct: number of targets predicted correctly.
    """

    correct: int

    @property
    def accuracy(self) -> float:
        """Fraction of the targets predicted correctly."""
        return self.correct / self.tokens

    def quality(self) -> dict[str, float | None]:
        return {"bits_per_byte": None, "accuracy": self.accuracy}

    def summary(self) -> dict[str, str]:
        return {
            "accuracy": f"{self.accuracy:.2%} of the hidden tokens",
            "tokens": f"{self.tokens:,}, hidden",
            "windows": f"{self.context} tokens",
        }


def score_hidden(
    model: Model,
    params: Params,
    objective: Objective,
    documents: Iterable[Document],
    *,
    context: int,
    batch_size: int = 16,
    mesh: Mesh | None = None,
) -> HiddenScore:
    """Score documents, held in memory, in rows of `context` tokens.

    Args:
      model: one that supports the objective.
      params: its parameters.
      objective: selects the hidden tokens.
      documents: each ends with the end-of-text token.
      context: tokens of the stream per row.
      batch_size: rows per batch, rounded up to a multiple that the mesh divides.
      mesh: of the parameters; None for one device.

    Raises:
      UserError: there is no text, or nothing in it is hidden.
    """
    documents = list(documents)
    size = sum(document.bytes for document in documents)
    if not size:
        raise UserError("text to score", "is empty", "give at least one byte")
    if not 1 <= context <= model.config.max_length:
        limit = model.config.max_length
        raise UserError(f"context {context}", "does not fit the model", f"choose 1 to {limit}")
    rows = rounded_up(batch_size, mesh, "batch")
    sums = np.zeros((len(documents), 3))
    for batch, firsts in hidden_batches(token_store(documents), objective, rows, context):
        between_batches()
        on_device = {name: place(array, mesh, "batch", "length") for name, array in batch.items()}
        with use_mesh(mesh):
            nats, is_correct = (
                np.asarray(x, np.float64) for x in _predict(model, params, on_device)
            )
        live, weights = batch["weights"] > 0, batch["weights"]
        owners = (firsts[:, None] + batch["segments"] - 1)[live]  # segments count from 1
        values = np.stack([weights * nats, weights, weights * is_correct], axis=-1)[live]
        np.add.at(sums, owners, values)
    nats, tokens, correct = sums.T
    if not tokens.any():
        raise UserError(
            "text to score", "is too short for any token to be hidden", "give more text"
        )
    sizes = np.array([document.bytes for document in documents])
    per_document = DocumentTotals(nats, tokens, sizes, correct)
    return HiddenScore(
        nats=math.fsum(nats),
        tokens=round(tokens.sum()),
        bytes=size,
        documents=len(documents),
        context=context,
        per_document=per_document,
        correct=round(correct.sum()),
    )


def has_targets(objective: Objective, documents: Iterable[Document], context: int) -> bool:
    """Whether `score_hidden` would hide any token of these documents."""
    documents = list(documents)
    if not sum(len(document.tokens) for document in documents):
        return False
    batches = hidden_batches(token_store(documents), objective, 1, context)
    return any(batch["weights"].any() for batch, _ in batches)


def hidden_batches(
    store: TokenStore, objective: Objective, rows: int, length: int
) -> Iterator[tuple[Arrays, np.ndarray]]:
    """Yield all of the stream once, with the index of each row's first document, int64 [rows]; rows
    after its end are padding."""
    for first in itertools.count(0, rows):
        starts = (first + np.arange(rows, dtype=np.int64)) * length
        if starts[0] >= store.num_tokens:
            return
        sizes = np.clip(store.num_tokens - starts, 0, length)
        cut = read_windows(store, starts % store.num_tokens, sizes, length)
        firsts = np.searchsorted(store.offsets, starts % store.num_tokens, side="right") - 1
        yield objective.batch(cut, [(SEED, first + row) for row in range(rows)]), firsts


def token_store(documents: Sequence[Document]) -> TokenStore:
    """Concatenate documents in memory."""
    tokens = np.concatenate([document.tokens for document in documents])
    ends = np.cumsum([0, *(len(document.tokens) for document in documents)])
    sizes = np.cumsum([0, *(document.bytes for document in documents)])
    return TokenStore(tokens, ends, sizes, np.zeros(len(documents), np.uint64))


@partial(jax.jit, static_argnames="model")
def _predict(
    model: Model, params: Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return the nats of each target, and whether it is the most likely token; replicated."""
    positions = jnp.broadcast_to(jnp.arange(batch["targets"].shape[1]), batch["targets"].shape)
    nats, correct = nll_at(model, params, batch, positions.astype(jnp.int32), batch["targets"])
    return reshard(nats, None, None), reshard(correct, None, None)
