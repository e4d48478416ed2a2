"""The task interface: from table rows to a loss, and from outputs to predictions."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.model.config import ModelConfig
from llmjax.tasks.config import TaskConfig, name_of
from llmjax.tasks.heads import Head, Network
from llmjax.tasks.metadata import TaskMetadata

if TYPE_CHECKING:
    from llmjax.data.tokenizers.tokenizer import Tokenizer
    from llmjax.metrics.metric import Metrics
    from llmjax.model.model import Model
    from llmjax.model.params import Params
    from llmjax.tasks.examples import Example

Batch = Mapping[str, jax.Array]


class TaskContext(NamedTuple):
    """The model and row length that a task is bound to.

    Attributes:
      tokenizer: the model's tokenizer.
      model: the model's architecture.
      length: tokens per row, the maximum length of an example.
    """

    tokenizer: "Tokenizer"
    model: ModelConfig
    length: int


class Outputs(NamedTuple):
    """A model's outputs for a batch, float32.

    Attributes:
      slots: name -> [R, E, ...], per example.
      tokens: name -> [R, L, ...], per token.
    """

    slots: Mapping[str, jax.Array] = MappingProxyType({})
    tokens: Mapping[str, jax.Array] = MappingProxyType({})


ExampleOutputs = dict[str, np.ndarray]
"""The outputs for one example of n tokens: per example [...], per token [n, ...]."""

Generate = Callable[[Sequence[Sequence[int]], int, int], list[str]]
"""(prompts' tokens, maximum new tokens, beams) -> the generated text of each."""


class PredictionData(NamedTuple):
    """The inputs of `Task.predictions`.

    Attributes:
      rows: of a table.
      examples: of the rows.
      outputs: of the examples.
      generate: generates text with the model.
    """

    rows: Sequence[Row]
    examples: "Sequence[Example]"
    outputs: Sequence[ExampleOutputs]
    generate: Generate


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A task bound to a model. Immutable; its functions of arrays are pure."""

    context: TaskContext
    metadata: TaskMetadata
    config: TaskConfig

    @property
    def name(self) -> str:
        """Name of its head and metrics."""
        return name_of(self.config)

    @property
    def head(self) -> Head | None:
        """The task's head; None if it uses the model's own outputs."""
        return None

    @abstractmethod
    def examples(self, rows: Sequence[Row]) -> "list[Example]":
        """Encode table rows; truncate what exceeds a packed row, with a warning.

        Raises:
          UserError: a row lacks a column or cannot be read; names the row.
        """

    @abstractmethod
    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        """Sum the loss over the batch; `params` are the network's, heads included."""

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        """Compute what `predictions` needs of a batch."""
        return Outputs()

    @abstractmethod
    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        """Return the prediction for each row, as plain data."""

    @abstractmethod
    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> "Metrics":
        """Evaluate predictions.

        Raises:
          UserError: a row has no target.
        """

    def reference(
        self,
        model: "Model",
        params: "Params",
        examples: "Sequence[Example]",
        *,
        batch_size: int,
        mesh: Mesh | None,
    ) -> TaskMetadata:
        """Add the initial model's outputs for examples to the metadata, for tasks whose config
        `uses_initial_model`.

        Args:
          model: the initial model.
          params: its parameters.
          examples: for training and validation.
          batch_size: packed rows per batch.
          mesh: of the parameters; None for one device.
        """
        return self.metadata

    def with_references(self, examples: "Sequence[Example]") -> "list[Example]":
        """Add the initial model's outputs, as far as the metadata has them, to examples."""
        return list(examples)

    def lacks_reference(self, example: "Example") -> bool:
        """Whether the metadata lacks the initial model's outputs for an example."""
        return False


def network_of(model: "Model", tasks: Sequence[Task]) -> Network:
    """Combine a model with the heads of its tasks."""
    heads = [(task.name, task.head) for task in tasks]
    return Network(model, tuple((name, head) for name, head in heads if head is not None))


def body(params: "Params") -> "Params":
    """Return a network's parameters without the heads."""
    return {name: value for name, value in params.items() if name != "heads"}


def require_decoder(name: str, model: ModelConfig, *, alone: bool = False) -> None:
    """Raise UserError unless the model has a decoder; with `alone`, also if it has an encoder."""
    if alone and (model.num_encoder_layers or not model.num_decoder_layers):
        reason = "needs a decoder-only model"
        raise UserError(f"task {name}", reason, "start from a decoder")
    if not model.num_decoder_layers:
        reason = "an encoder cannot generate text"
        raise UserError(f"task {name}", reason, "use a decoder or an encoder-decoder")
