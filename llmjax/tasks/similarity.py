"""Vectors of texts, near for pairs and far for all others (in-batch contrast, arXiv:1705.00652)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel import mesh
from llmjax.tasks.config import SimilarityTask
from llmjax.tasks.example import Example
from llmjax.tasks.states import inside_slots, token_states
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Setting, Write, body
from llmjax.tasks.texts import read_texts

NEVER = -1e30  # a logit whose exponential is 0, and whose gradient is finite
COMPARED = 1024
"""Pairs that are compared with each other in measuring."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Vectors of texts: the mean of an encoder's states, a decoder's last state; of length 1.

    An example's target are the numbers of its two texts: equal texts have the same one.
    """

    setting: Setting
    facts: Facts
    config: SimilarityTask
    paired = True
    outputs_per_target = 2
    head = None

    @property
    def longest(self) -> int:
        """Tokens of a text: a pair shares a row."""
        return max(1, self.setting.length // 2)

    @staticmethod
    def find(config: SimilarityTask, rows: Sequence[Row]) -> Facts:
        """Nothing; but a row without its texts is an error."""
        for row in rows:
            text_at(row, config.text), text_at(row, config.pair)
        return Facts()

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        half = self.setting._replace(length=self.longest)
        columns = (self.config.text, self.config.pair)
        firsts, seconds = (read_texts(half, rows, column) for column in columns)
        pairs = list(zip(firsts, seconds, strict=True))
        targets = numbered([[tuple(one.tokens) for one in pair] for pair in pairs])
        return [
            Example(pair, target.astype(np.float32), 1.0, number)
            for number, (pair, target) in enumerate(zip(pairs, targets, strict=True))
        ]

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        """Cross-entropy of each first text's partner among all second texts of the global batch;
        with `both` the mean of that and the other way round. A pair that has a text in common with
        another is no negative of it (see `in_common`)."""
        vectors = self._vectors(model, params, batch, key)
        found = self._told(*vectors, batch)
        if not self.config.both:
            return found
        back = self._told(*vectors[::-1], batch, first=1)
        both: Loss = jax.tree.map(lambda one, other: (one + other) / 2, found, back)
        return both

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        first, second = self._vectors(model, params, batch, None)
        return Outputs({"first": first, "second": second}, {})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        return [
            {
                "similarity": float(one["first"] @ one["second"]),
                "vectors": [one["first"].tolist(), one["second"].tolist()],
            }
            for one in found
        ]

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Metrics:
        """Of the first rows, so many as are compared with each other."""
        from llmjax.metrics.numbers import similarity

        vectors = np.array([one["vectors"] for one in predictions[:COMPARED]])
        columns = (self.config.text, self.config.pair)
        texts = [[text_at(row, column) for column in columns] for row in rows[: len(vectors)]]
        own, other = numbered(texts).T
        excluded = np.asarray(in_common(own, other, own, other)) & ~np.eye(len(own), dtype=bool)
        return similarity(vectors[:, 0] @ vectors[:, 1].T, self.config.scale, excluded)

    def _vectors(
        self, model: Model, params: Params, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """[R, E, D] float32 each, of length 1; 0 where a slot is empty."""
        if model.config.is_encoder_decoder:
            given = (batch[name] for name in ("inputs", "segments", "positions"))
            states = mesh.reshard(model.encode(body(params), *given), "batch", None, None)
        else:
            states = token_states(model, params, batch, key)
        inside = inside_slots(batch, 2)
        if not model.config.num_encoder_layers:
            ahead = jnp.cumsum(inside, axis=2)
            inside = inside & (ahead == inside.sum(axis=2, keepdims=True))
        means = jnp.einsum("rel,rld->red", inside.astype(jnp.float32), states.astype(jnp.float32))
        # The mean's length does not matter, for all are made as long.
        squares = jnp.sum(jnp.square(means), axis=-1, keepdims=True)
        unit = means * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
        pairs = unit.reshape(unit.shape[0], -1, 2, unit.shape[-1])
        return pairs[:, :, 0], pairs[:, :, 1]

    def _told(self, own: jax.Array, others: jax.Array, batch: Batch, first: int = 0) -> Loss:
        """Cross-entropy of each of `own` [R, E, D] among all `others`; `first` is
        which of a target's numbers is that of `own`."""
        rows, slots, width = own.shape
        weights, numbers = batch["slot_weights"], batch["slot_targets"]
        every = mesh.reshard(others, None, None, None).reshape(rows * slots, width)
        there = mesh.reshard(weights, None, None).reshape(rows * slots) > 0
        cosines = jnp.einsum("red,nd->ren", own, every)
        places = jnp.arange(rows * slots, dtype=jnp.int32)
        itself = mesh.reshard(places.reshape(rows, slots), "batch", None)
        all_numbers = mesh.reshard(numbers, None, None, None).reshape(rows * slots, 2)
        here = mesh.reshard(numbers, "batch", None, None)
        sides = (here[..., first], here[..., 1 - first])
        same = in_common(*sides, all_numbers[:, first], all_numbers[:, 1 - first])
        negative = there & ~same | (itself[..., None] == places)
        logits = jnp.where(negative, self.config.scale * cosines, NEVER)
        return softmax_cross_entropy(logits, itself, weights)


def numbered(pairs: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """int64 [pairs, 2]: a number for each text; equal texts have the same one. float32 holds the
    first 2^24 exactly."""
    numbers: dict[Hashable, int] = {}
    found = [[numbers.setdefault(text, len(numbers)) for text in pair] for pair in pairs]
    return np.array(found, np.int64).reshape(len(pairs), 2)


def in_common(own: Any, other: Any, every_own: Any, every_other: Any) -> Any:
    """Which pairs say nothing of how far a text is from another's partner: those with the same text
    or the same partner, and those whose partner is the text itself.

    Args:
      own: [...], the numbers of texts that look for their partners.
      other: [...], the numbers of their partners.
      every_own: [N], of all pairs.
      every_other: [N], of all pairs.

    Returns:
      bool [..., N]; True for each pair with itself.
    """
    own, other = own[..., None], other[..., None]
    return (own == every_own) | (other == every_other) | (own == every_other)
