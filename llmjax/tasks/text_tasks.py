"""Texts and pairs of texts as segments, and what tasks with a head on a whole text share."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.loss import Loss
from llmjax.tasks import heads
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.heads import Head
from llmjax.tasks.task import Batch, ExampleOutputs, Outputs, PredictionData, Task, TaskContext
from llmjax.tasks.token_tasks import slot_mask, token_states

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """What a task has that says something of a text, or of a pair of texts."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text of a pair."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """One head on the state that stands for a text.

    A task says how many numbers its head gives, what a row's target is, and what loss and outputs
    its logits [R, E, outputs] stand for; R rows hold up to E examples each.
    """

    config: TextTaskConfig

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Numbers that the head gives for each text."""

    @property
    def target_size(self) -> int:
        """k: how many numbers an example's target has."""
        return 1

    @property
    def initial_bias(self) -> tuple[float, ...]:
        """What the head's bias begins as; empty: 0."""
        return ()

    @abstractmethod
    def target(self, row: Row) -> tuple[Sequence[float] | np.ndarray, float]:
        """A row's target, k numbers, and its weight.

        Raises:
          UserError: the row has none that can be read.
        """

    @abstractmethod
    def logits_loss(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
        """Sums over a batch.

        Args:
          logits: [R, E, outputs] float32.
          targets: [R, E, k] float32.
          weights: [R, E] float32; 0 where there is no example.
        """

    @abstractmethod
    def logits_outputs(self, logits: jax.Array) -> Mapping[str, jax.Array]:
        """What predictions are made of, name -> [R, E, ...]."""

    @abstractmethod
    def prediction(self, outputs: ExampleOutputs) -> dict[str, Any]:
        """The prediction for one text, from its part of `logits_outputs`."""

    @property
    def head(self) -> Head:
        """The head that published classifiers of the model's family have.

        Raises:
          UserError: the model has no state that stands for a text.
        """
        return heads.text_head(self.context.model, self.num_outputs, self.name, self.initial_bias)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """One of each row; a row without the target's column has weight 0."""
        segments = read_texts(self.context, rows, self.config.text, self.config.pair)
        examples = []
        for number, (row, segment) in enumerate(zip(rows, segments, strict=True)):
            target, weight = np.zeros(self.target_size), 0.0
            if all(column in row.values for column in self.config.target_columns):
                numbers, weight = self.target(row)
                target = np.asarray(numbers)
            examples.append(Example((segment,), target.astype(np.float32), weight, number))
        return examples

    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        logits = self.logits(model, params, batch, key)
        return self.logits_loss(logits, batch["slot_targets"], batch["slot_weights"])

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        return Outputs(slots=self.logits_outputs(self.logits(model, params, batch, None)))

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        return [self.prediction(outputs) for outputs in data.outputs]

    def logits(
        self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None
    ) -> jax.Array:
        """[R, E, outputs] float32."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        states = text_states(model, params, batch, keys[0])
        return self.head(model, params, params["heads"][self.name], states, keys[1])


def text_states(model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> jax.Array:
    """The state that stands for each example, [R, E, D] in the compute dtype: of an encoder the
    first token's, of a decoder the last one's; 0 where there is no example."""
    from llmjax.model.products import einsum

    states = token_states(model, params, batch, key)
    inside = slot_mask(batch)
    ahead = jnp.cumsum(inside, axis=2)
    last = inside.sum(axis=2, keepdims=True) if model.config.num_decoder_layers else 1
    chosen = inside & (ahead == last)
    return einsum("rel,rld->red", chosen.astype(states.dtype), states).astype(states.dtype)


def read_texts(
    context: TaskContext, rows: Sequence[Row], text: str, pair: str | None = None
) -> list[Segment]:
    """The segment of each row's text, or pair of texts, wrapped in the model's special tokens.

    A text is cut at its end; of a pair the longer one, token by token (the longest first).

    Raises:
      UserError: a row has no such text.
    """
    tokenizer = context.tokenizer
    firsts = tokenizer.encode_batch([text_at(row, text) for row in rows])
    seconds: Sequence[Sequence[int] | None] = [None] * len(rows)
    if pair is not None:
        seconds = tokenizer.encode_batch([text_at(row, pair) for row in rows])
    special = len(tokenizer.wrap([], None if pair is None else [])[0])
    space, cut, segments = max(1, context.length - special), 0, []
    for first, second in zip(firsts, seconds, strict=True):
        sizes = len(first), len(second or ())
        kept = _fitted(*sizes, space)
        cut += kept != sizes
        tail = None if second is None else second[: kept[1]]
        tokens, types = tokenizer.wrap(first[: kept[0]], tail)
        segments.append(Segment(tokens, types) if tokens else Segment([tokenizer.bos_id], [0]))
    if cut:
        log.warning("%d of %d texts are cut to %d tokens", cut, len(rows), context.length)
    return segments


def _fitted(first: int, second: int, space: int) -> tuple[int, int]:
    """How many tokens of each are kept, when the longer loses one until both fit."""
    over = first + second - space
    if over <= 0:
        return first, second
    alone = min(over, abs(first - second))
    shared = over - alone
    longer, shorter = max(first, second) - alone, min(first, second)
    longer, shorter = longer - (shared + 1) // 2, shorter - shared // 2
    return (longer, shorter) if first >= second else (shorter, longer)
