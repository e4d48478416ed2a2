"""Vectors of texts, near for pairs and far for all others (in-batch contrast, arXiv:1705.00652)."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.labels import NEVER, softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.parallel import mesh
from llmjax.tasks.config import TaskConfig, not_positive
from llmjax.tasks.examples import Example
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.task import Batch, Outputs, PredictionData, Task, TaskContext, body
from llmjax.tasks.text_tasks import read_texts
from llmjax.tasks.token_tasks import slot_mask, token_states

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

MAX_COMPARED = 1024
"""Pairs that are compared with each other in evaluation."""


@dataclass(frozen=True)
class SimilarityTask(TaskConfig):
    """Vectors of texts that are near for pairs, and far for all others of a batch (in-batch
    contrast, arXiv:1705.00652)."""

    text: str = "text"
    """Column of the first text of a pair."""
    pair: str = "pair"
    """Column of the second."""
    scale: float = 20.0
    """Factor of the cosines, before the softmax over the batch."""
    both: bool = False
    """Whether the second texts look for the first ones too."""
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
    """Vectors of texts: the mean of an encoder's states, a decoder's last state; of length 1.

    An example's target are the numbers of its two texts: equal texts have the same one.
    """

    config: SimilarityTask

    @property
    def max_tokens(self) -> int:
        """Tokens of a text: a pair shares a row."""
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
        with `both` the mean of that and the other way round. A pair that has a text in common with
        another is no negative of it (see `in_common`)."""
        first, second = self._vectors(model, params, batch, key)
        forward = self._contrast(first, second, batch)
        if not self.config.both:
            return forward
        backward = self._contrast(second, first, batch, side=1)
        both: Loss = jax.tree.map(lambda a, b: (a + b) / 2, forward, backward)
        return both

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        first, second = self._vectors(model, params, batch, None)
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
        """Of the first rows, so many as are compared with each other."""
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
    ) -> tuple[jax.Array, jax.Array]:
        """[R, E, D] float32 each, of length 1; 0 where a slot is empty."""
        if model.config.is_encoder_decoder:
            inputs = (batch[name] for name in ("inputs", "segments", "positions"))
            states = mesh.reshard(model.encode(body(params), *inputs), "batch", None, None)
        else:
            states = token_states(model, params, batch, key)
        inside = slot_mask(batch, 2)
        if not model.config.num_encoder_layers:
            ahead = jnp.cumsum(inside, axis=2)
            inside = inside & (ahead == inside.sum(axis=2, keepdims=True))
        means = jnp.einsum("rel,rld->red", inside.astype(jnp.float32), states.astype(jnp.float32))
        # The mean's length does not matter, for all get length 1.
        squares = jnp.sum(jnp.square(means), axis=-1, keepdims=True)
        unit = means * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        pairs = unit.reshape(unit.shape[0], -1, 2, unit.shape[-1])
        return pairs[:, :, 0], pairs[:, :, 1]

    def _contrast(self, queries: jax.Array, others: jax.Array, batch: Batch, side: int = 0) -> Loss:
        """Each of `queries` [R, E, D] finds its partner among all `others`; `side` says which of a
        target's numbers is a query's."""
        rows, slots, width = queries.shape
        weights, numbers = batch["slot_weights"], batch["slot_targets"]
        candidates = mesh.reshard(others, None, None, None).reshape(rows * slots, width)
        exists = mesh.reshard(weights, None, None).reshape(rows * slots) > 0
        cosines = jnp.einsum("red,nd->ren", queries, candidates)
        places = jnp.arange(rows * slots, dtype=jnp.int32)
        partner = mesh.reshard(places.reshape(rows, slots), "batch", None)
        all_numbers = mesh.reshard(numbers, None, None, None).reshape(rows * slots, 2)
        here = mesh.reshard(numbers, "batch", None, None)
        same = in_common(
            here[..., side], here[..., 1 - side], all_numbers[:, side], all_numbers[:, 1 - side]
        )
        negative = exists & ~same | (partner[..., None] == places)
        logits = jnp.where(negative, self.config.scale * cosines, NEVER)
        return softmax_cross_entropy(logits, partner, weights)


def numbered(pairs: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """int64 [pairs, 2]: a number for each text; equal texts have the same one. float32 holds the
    first 2^24 exactly."""
    numbers: dict[Hashable, int] = {}
    rows = [[numbers.setdefault(text, len(numbers)) for text in pair] for pair in pairs]
    return np.array(rows, np.int64).reshape(len(pairs), 2)


def in_common(queries: Any, partners: Any, all_queries: Any, all_partners: Any) -> Any:
    """Which pairs say nothing of how far a text is from another's partner: those with the same text
    or the same partner, and those whose partner is the text itself.

    Args:
      queries: [...], the numbers of texts that look for their partners.
      partners: [...], the numbers of their partners.
      all_queries: [N], of all pairs.
      all_partners: [N], of all pairs.

    Returns:
      bool [..., N]; True for each pair with itself.
    """
    queries, partners = queries[..., None], partners[..., None]
    return (queries == all_queries) | (partners == all_partners) | (queries == all_partners)
