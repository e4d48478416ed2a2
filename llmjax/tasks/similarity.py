"""Vectors of texts, near for pairs and far for all others (in-batch contrast, arXiv:1705.00652)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax import mesh
from llmjax.data.tables import Row, text_at
from llmjax.losses import Loss
from llmjax.losses.labels import softmax_cross_entropy
from llmjax.measures import Measures
from llmjax.model import Model, Params
from llmjax.tasks.config import SimilarityTask
from llmjax.tasks.example import Example
from llmjax.tasks.states import inside_slots, token_states
from llmjax.tasks.task import Batch, Facts, Found, Outputs, Setting, Write, body
from llmjax.tasks.texts import read_texts

NOTHING = np.zeros(0, np.float32)
NEVER = -1e30  # a logit whose exponential is 0, and whose gradient is finite
COMPARED = 1024
"""Pairs that are compared with each other in measuring."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """Vectors of texts: the mean of an encoder's states, a decoder's last state; of length 1."""

    setting: Setting
    facts: Facts
    config: SimilarityTask
    paired = True
    outputs_per_target = 0
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
        pairs = enumerate(zip(firsts, seconds, strict=True))
        return [Example(pair, NOTHING, 1.0, number) for number, pair in pairs]

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        """Cross-entropy of each first text's partner among all second texts of the global batch;
        with `both` the mean of that and the other way round."""
        first, second = self._vectors(model, params, batch, key)
        found = Loss(*self._told(first, second, batch["slot_weights"]))
        if not self.config.both:
            return found
        back = Loss(*self._told(second, first, batch["slot_weights"]))
        return Loss(*((one + other) / 2 for one, other in zip(found, back, strict=True)))

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

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> Measures:
        """Of the first rows, so many as are compared with each other."""
        from llmjax.measures import similarity

        vectors = np.array([one["vectors"] for one in predictions[:COMPARED]])
        return similarity(vectors[:, 0] @ vectors[:, 1].T, self.config.scale)

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

    def _told(self, own: jax.Array, others: jax.Array, weights: jax.Array) -> tuple:
        """Sums, as of softmax_cross_entropy: each of `own` [R, E, D] among all `others`."""
        rows, slots, width = own.shape
        every = mesh.reshard(others, None, None, None).reshape(rows * slots, width)
        there = mesh.reshard(weights, None, None).reshape(rows * slots) > 0
        cosines = jnp.einsum("red,nd->ren", own, every)
        logits = jnp.where(there, self.config.scale * cosines, NEVER)
        numbers = jnp.arange(rows * slots, dtype=jnp.int32).reshape(rows, slots)
        return softmax_cross_entropy(logits, mesh.reshard(numbers, "batch", None), weights)
