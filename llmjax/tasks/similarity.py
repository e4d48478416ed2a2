"""Text embeddings by contrastive learning with in-batch negatives (arXiv:1705.00652)."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.labels import NEVER, softmax_cross_entropy
from llmjax.losses.loss import Loss, with_aux
from llmjax.metrics.metric import Metrics
from llmjax.parallel import mesh
from llmjax.tasks.config import TaskConfig, not_positive
from llmjax.tasks.examples import Example
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import Batch, Outputs, PredictionData, Task, TaskContext, body
from llmjax.tasks.text_tasks import read_texts
from llmjax.tasks.token_tasks import slot_mask, token_states

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params

MAX_COMPARED = 1024
"""Pairs compared with each other in evaluation."""


@dataclass(frozen=True)
class SimilarityTask(TaskConfig):
    """Embed texts so that pairs are close: contrastive loss with in-batch negatives
    (arXiv:1705.00652)."""

    text: str = "text"
    """Column of the first text of a pair."""
    pair: str = "pair"
    """Column of the second text."""
    scale: float = 20.0
    """Multiplies the cosines before the softmax over the batch (inverse temperature)."""
    both: bool = False
    """Whether to add the loss from second to first texts (symmetric)."""
    kind: Literal["similarity"] = "similarity"

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.text, self.pair)

    def metric_names(self, metadata: TaskMetadata) -> tuple[str, ...]:
        return ("accuracy", "mean_reciprocal_rank", "loss", "spearman")

    def open(self, context: TaskContext, metadata: TaskMetadata) -> "Similarity":
        return Similarity(context, metadata, self)

    def problems(self) -> Iterator[str]:
        yield from not_positive(self, "scale")


@dataclass(frozen=True, eq=False)
class Similarity(Task):
    """Embeds texts: the mean of an encoder's states or a decoder's last state, L2-normalized.

    An example's target is the ids of its two texts; equal texts have equal ids.
    """

    config: SimilarityTask

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of a text: a pair shares a row."""
        return max(1, self.context.length // 2)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        half = self.context._replace(length=self.max_tokens)
        firsts, seconds = (read_texts(half, rows, name) for name in self.config.input_columns)
        pairs = list(zip(firsts, seconds, strict=True))
        targets = numbered([[tuple(segment.tokens) for segment in pair] for pair in pairs])
        return [
            Example(pair, target.astype(np.float32), 1.0, number)
            for number, (pair, target) in enumerate(zip(pairs, targets, strict=True))
        ]

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        """Cross-entropy of each first text's partner among all second texts of the global batch;
        with `both`, averaged with the reverse direction. Pairs that share a text are not negatives
        of each other (see `in_common`)."""
        first, second, aux = self._vectors(model, params, batch, key)
        forward = self._contrast(first, second, batch)
        if not self.config.both:
            return with_aux(forward, aux)
        backward = self._contrast(second, first, batch, side=1)
        symmetric: Loss = jax.tree.map(lambda a, b: (a + b) / 2, forward, backward)
        return with_aux(symmetric, aux)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        first, second, _ = self._vectors(model, params, batch, None)
        return Outputs(slots={"first": first, "second": second})

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        return [
            {
                "similarity": float(output["first"] @ output["second"]),
                "vectors": [output["first"].tolist(), output["second"].tolist()],
            }
            for output in data.outputs
        ]

    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        """Metrics of the first MAX_COMPARED rows."""
        from llmjax.metrics.numbers import similarity

        vectors = np.array([prediction["vectors"] for prediction in predictions[:MAX_COMPARED]])
        columns = self.config.input_columns
        texts = [[text_at(row, column) for column in columns] for row in rows[: len(vectors)]]
        first, second = numbered(texts).T
        excluded = np.asarray(in_common(first, second, first, second))
        excluded &= ~np.eye(len(first), dtype=bool)
        return similarity(vectors[:, 0] @ vectors[:, 1].T, self.config.scale, excluded)

    def _vectors(
        self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None
    ) -> "tuple[jax.Array, jax.Array, Aux]":
        """[R, E, D] float32 each, L2-normalized, 0 for empty slots; and the sums that layers
        report."""
        aux: Aux = {}
        if model.config.is_encoder_decoder:
            inputs = (batch[name] for name in ("inputs", "segments", "positions"))
            states = mesh.reshard(model.encode(body(params), *inputs), "batch", None, None)
        else:
            states, aux = token_states(model, params, batch, key)
        inside = slot_mask(batch, 2)
        if not model.config.num_encoder_layers:
            ahead = jnp.cumsum(inside, axis=2)
            inside = inside & (ahead == inside.sum(axis=2, keepdims=True))
        means = jnp.einsum("rel,rld->red", inside.astype(jnp.float32), states.astype(jnp.float32))
        # Sums serve as means, since all vectors are normalized.
        squares = jnp.sum(jnp.square(means), axis=-1, keepdims=True)
        unit = means * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        pairs = unit.reshape(unit.shape[0], -1, 2, unit.shape[-1])
        return pairs[:, :, 0], pairs[:, :, 1], aux

    def _contrast(self, queries: jax.Array, keys: jax.Array, batch: Batch, side: int = 0) -> Loss:
        """Cross-entropy of each query's partner among all keys, [R, E, D] each; `side` is the index
        of the query's id in the targets."""
        rows, slots, width = queries.shape
        weights, ids = batch["slot_weights"], batch["slot_targets"]
        candidates = mesh.reshard(keys, None, None, None).reshape(rows * slots, width)
        exists = mesh.reshard(weights, None, None).reshape(rows * slots) > 0
        cosines = jnp.einsum("red,nd->ren", queries, candidates)
        indices = jnp.arange(rows * slots, dtype=jnp.int32)
        partner = mesh.reshard(indices.reshape(rows, slots), "batch", None)
        all_ids = mesh.reshard(ids, None, None, None).reshape(rows * slots, 2)
        query_ids = mesh.reshard(ids, "batch", None, None)
        shared = in_common(
            query_ids[..., side], query_ids[..., 1 - side], all_ids[:, side], all_ids[:, 1 - side]
        )
        compared = exists & ~shared | (partner[..., None] == indices)
        logits = jnp.where(compared, self.config.scale * cosines, NEVER)
        return softmax_cross_entropy(logits, partner, weights)


def numbered(pairs: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Assign an id to each distinct text: int64 [pairs, 2]. float32 represents ids below 2^24
    exactly."""
    ids: dict[Hashable, int] = {}
    rows = [[ids.setdefault(text, len(ids)) for text in pair] for pair in pairs]
    return np.array(rows, np.int64).reshape(len(pairs), 2)


def in_common(queries: Any, partners: Any, all_queries: Any, all_partners: Any) -> Any:
    """Find the pairs that are not valid negatives of a query: those with the same query or the same
    partner, and those whose partner is the query itself.

    Args:
      queries: [...], ids of the queries.
      partners: [...], ids of their partners.
      all_queries: [N], of all pairs.
      all_partners: [N], of all pairs.

    Returns:
      bool [..., N]; True for each pair with itself.
    """
    queries, partners = queries[..., None], partners[..., None]
    return (queries == all_queries) | (partners == all_partners) | (queries == all_partners)
