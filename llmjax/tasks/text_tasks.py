"""Tasks with a text-level head, and the encoding of texts and pairs of texts."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.tables.table import Row, text_at
from llmjax.losses.loss import Loss, with_aux
from llmjax.tasks import heads
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.examples import Example, Segment
from llmjax.tasks.heads import Head
from llmjax.tasks.task import Batch, ExampleOutputs, Outputs, PredictionData, Task, TaskContext
from llmjax.tasks.token_tasks import slot_mask, token_states

if TYPE_CHECKING:
    from llmjax.model.aux_sums import Aux
    from llmjax.model.model import Model
    from llmjax.model.params import Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """Fields of tasks on a text or a pair of texts."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of the second text of a pair; none: single texts."""

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """A task with one head on the state that represents a text.

    A subclass defines the number of outputs, the target of a row, and the loss and the outputs of
    logits [R, E, outputs]; R rows have up to E examples each.
    """

    config: TextTaskConfig

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the head per text."""

    @property
    def target_size(self) -> int:
        """k, the size of an example's target."""
        return 1

    @property
    def initial_bias(self) -> tuple[float, ...]:
        """Initial value of the head's bias; empty: 0."""
        return ()

    @abstractmethod
    def target(self, row: Row) -> tuple[Sequence[float] | np.ndarray, float]:
        """Return a row's target, k numbers, and its weight.

        Raises:
          UserError: the target is missing or cannot be read.
        """

    @abstractmethod
    def logits_loss(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> Loss:
        """Sum the loss over a batch.

        Args:
          logits: [R, E, outputs] float32.
          targets: [R, E, k] float32.
          weights: [R, E] float32; 0 for empty slots.
        """

    @abstractmethod
    def logits_outputs(self, logits: jax.Array) -> Mapping[str, jax.Array]:
        """Return what `prediction` needs, name -> [R, E, ...]."""

    @abstractmethod
    def prediction(self, outputs: ExampleOutputs) -> dict[str, Any]:
        """Return the prediction for one text from its `logits_outputs`."""

    @property
    def head(self) -> Head:
        """The head of published classifiers of the model's family.

        Raises:
          UserError: the model is an encoder-decoder.
        """
        return heads.text_head(self.context.model, self.num_outputs, self.name, self.initial_bias)

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Encode one example per row; a row without the target column has weight 0."""
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
        logits, aux = self.logits(model, params, batch, key)
        loss = self.logits_loss(logits, batch["slot_targets"], batch["slot_weights"])
        return with_aux(loss, aux)

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        return Outputs(slots=self.logits_outputs(self.logits(model, params, batch, None)[0]))

    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        return [self.prediction(outputs) for outputs in data.outputs]

    def logits(
        self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None
    ) -> "tuple[jax.Array, Aux]":
        """[R, E, outputs] float32, and the sums that layers report."""
        keys = (None, None) if key is None else tuple(jax.random.split(key))
        states, aux = text_states(model, params, batch, keys[0])
        return self.head(model, params, params["heads"][self.name], states, keys[1]), aux


def text_states(
    model: "Model", params: "Params", batch: Batch, key: jax.Array | None
) -> "tuple[jax.Array, Aux]":
    """Return the state of each example's first token (encoder) or last token (decoder), [R, E, D]
    in the compute dtype, 0 for empty slots; and the sums that layers report."""
    from llmjax.model.products import einsum

    states, aux = token_states(model, params, batch, key)
    inside = slot_mask(batch)
    ahead = jnp.cumsum(inside, axis=2)
    last = inside.sum(axis=2, keepdims=True) if model.config.num_decoder_layers else 1
    selected = inside & (ahead == last)
    chosen = einsum("rel,rld->red", selected.astype(states.dtype), states).astype(states.dtype)
    return chosen, aux


def read_texts(
    context: TaskContext, rows: Sequence[Row], text: str, pair: str | None = None
) -> list[Segment]:
    """Encode each row's text or pair of texts, with special tokens.

    Texts are truncated at the end; of a pair, always the longer text, token by token.

    Raises:
      UserError: a row lacks a text.
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
    """Return how many tokens of each text to keep, truncating the longer one until both fit."""
    over = first + second - space
    if over <= 0:
        return first, second
    difference = min(over, abs(first - second))
    shared = over - difference
    longer, shorter = max(first, second) - difference, min(first, second)
    longer, shorter = longer - (shared + 1) // 2, shorter - shared // 2
    return (longer, shorter) if first >= second else (shorter, longer)
