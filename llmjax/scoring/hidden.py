"""Scores what an objective hides of some documents: masked tokens, spans, the rest of a text.

What is hidden is drawn from a fixed seed, so the same documents always ask for the same.
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
from llmjax.scoring.totals import ByDocument, Totals

SEED = 0x48656C64
"""Fixed, so that the same documents always hide the same tokens."""


@dataclass(frozen=True)
class HiddenScore(Totals):
    """Sums over hidden tokens. There are no bits per byte: most of the text is given.

    Attributes:
      correct: targets whose likeliest token is the right one.
    """

    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the targets that are predicted correctly."""
        return self.correct / self.tokens

    def quality(self) -> dict[str, float | None]:
        return {"bits_per_byte": None, "accuracy": self.accuracy}

    def words(self) -> dict[str, str]:
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
    """Scores documents, whose tokens are held in memory, in rows of `context` tokens of them.

    Args:
      model: one that the objective suits.
      params: its parameters.
      objective: what is hidden.
      documents: each ends with its end-of-text token.
      context: tokens of the stream in a row.
      batch_size: rows at once, rounded up to what the mesh divides.
      mesh: where params live; None for one device.

    Raises:
      UserError: there is no text, or nothing in it is hidden.
    """
    held = list(documents)
    size = sum(document.bytes for document in held)
    if not size:
        raise UserError("text to score", "there is none", "give at least one byte of it")
    if not 1 <= context <= model.config.max_length:
        limit = model.config.max_length
        raise UserError(f"context {context}", "does not fit the model", f"choose 1 to {limit}")
    rows = rounded_up(batch_size, mesh, "batch")
    sums = np.zeros((len(held), 3))
    for batch, firsts in hidden_batches(token_store(held), objective, rows, context):
        between_batches()
        on_device = {name: place(array, mesh, "batch", "length") for name, array in batch.items()}
        with use_mesh(mesh):
            nats, is_correct = (
                np.asarray(x, np.float64) for x in _predict(model, params, on_device)
            )
        live, weights = batch["weights"] > 0, batch["weights"]
        owners = (firsts[:, None] + batch["segments"] - 1)[live]  # segments count from 1
        sums_at = np.stack([weights * nats, weights, weights * is_correct], axis=-1)[live]
        np.add.at(sums, owners, sums_at)
    nats, tokens, correct = sums.T
    if not tokens.any():
        raise UserError("text to score", "is too short for anything to be hidden", "give more")
    each = ByDocument(nats, tokens, np.array([document.bytes for document in held]), correct)
    return HiddenScore(
        nats=math.fsum(nats),
        tokens=round(tokens.sum()),
        bytes=size,
        documents=len(held),
        context=context,
        each=each,
        correct=round(correct.sum()),
    )


def has_targets(objective: Objective, documents: Iterable[Document], context: int) -> bool:
    """Whether anything of these documents is hidden when they are scored so; see `score_hidden`."""
    held = list(documents)
    if not sum(len(document.tokens) for document in held):
        return False
    batches = hidden_batches(token_store(held), objective, 1, context)
    return any(batch["weights"].any() for batch, _ in batches)


def hidden_batches(
    store: TokenStore, objective: Objective, rows: int, length: int
) -> Iterator[tuple[Arrays, np.ndarray]]:
    """All of the stream once, with the document that each row begins in, int64 [rows]; rows behind
    its end are padding."""
    for first in itertools.count(0, rows):
        starts = (first + np.arange(rows, dtype=np.int64)) * length
        if starts[0] >= store.num_tokens:
            return
        sizes = np.clip(store.num_tokens - starts, 0, length)
        cut = read_windows(store, starts % store.num_tokens, sizes, length)
        firsts = np.searchsorted(store.offsets, starts % store.num_tokens, side="right") - 1
        yield objective.batch(cut, [(SEED, first + row) for row in range(rows)]), firsts


def token_store(documents: Sequence[Document]) -> TokenStore:
    tokens = np.concatenate([document.tokens for document in documents])
    ends = np.cumsum([0, *(len(document.tokens) for document in documents)])
    sizes = np.cumsum([0, *(document.bytes for document in documents)])
    return TokenStore(tokens, ends, sizes, np.zeros(len(documents), np.uint64))


@partial(jax.jit, static_argnames="model")
def _predict(
    model: Model, params: Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Nats of each target, and whether it is the likeliest; whole on every device."""
    places = jnp.broadcast_to(jnp.arange(batch["targets"].shape[1]), batch["targets"].shape)
    nats, correct = nll_at(model, params, batch, places.astype(jnp.int32), batch["targets"])
    return reshard(nats, None, None), reshard(correct, None, None)
