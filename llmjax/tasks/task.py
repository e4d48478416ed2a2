"""What every task offers on a model: from table rows to a loss, and from outputs to predictions."""

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
    """What a task is done with.

    Attributes:
      tokenizer: of the model.
      model: its architecture.
      length: tokens in a row, and so the most of an example.
    """

    tokenizer: "Tokenizer"
    model: ModelConfig
    length: int


class Outputs(NamedTuple):
    """What a model computes for a batch, float32.

    Attributes:
      slots: name -> [R, E, ...], of each example.
      tokens: name -> [R, L, ...], of each token.
    """

    slots: Mapping[str, jax.Array] = MappingProxyType({})
    tokens: Mapping[str, jax.Array] = MappingProxyType({})


ExampleOutputs = dict[str, np.ndarray]
"""The outputs of one example: of slots [...], of tokens [n, ...] for its n tokens."""

Generate = Callable[[Sequence[Sequence[int]], int, int], list[str]]
"""(prompts' tokens, most new tokens, beams) -> the text that the model writes after each."""


class PredictionData(NamedTuple):
    """What predictions are made of.

    Attributes:
      rows: of a table.
      examples: of these rows.
      outputs: of these examples.
      generate: writes text with the model.
    """

    rows: Sequence[Row]
    examples: "Sequence[Example]"
    outputs: Sequence[ExampleOutputs]
    generate: Generate


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """One kind of examples, on one model. Immutable; its functions of arrays are pure."""

    context: TaskContext
    metadata: TaskMetadata
    config: TaskConfig

    @property
    def name(self) -> str:
        """Names its head and its metrics."""
        return name_of(self.config)

    @property
    def head(self) -> Head | None:
        """What stands on the model for it; None: nothing, its outputs are the model's own."""
        return None

    @abstractmethod
    def examples(self, rows: Sequence[Row]) -> "list[Example]":
        """Encoded rows; what is longer than a row is cut, with a warning.

        Raises:
          UserError: a row lacks a column, or holds what cannot be read; it names the row.
        """

    @abstractmethod
    def loss(self, model: "Model", params: "Params", batch: Batch, key: jax.Array | None) -> Loss:
        """Sums over the batch; `params` are the network's, heads included."""

    def outputs(self, model: "Model", params: "Params", batch: Batch) -> Outputs:
        """What predictions are made of."""
        return Outputs()

    @abstractmethod
    def predictions(self, data: PredictionData) -> list[dict[str, Any]]:
        """The prediction for each row, as plain data."""

    @abstractmethod
    def metrics(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> "Metrics":
        """How good the predictions are.

        Raises:
          UserError: a row has no target to compare with.
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
        """The metadata, with what the initial model says of examples; of tasks whose config
        `uses_initial_model`.

        Args:
          model: the model.
          params: the initial ones.
          examples: for training and validation.
          batch_size: rows of tokens at once.
          mesh: where params live; None for one device.
        """
        return self.metadata

    def with_references(self, examples: "Sequence[Example]") -> "list[Example]":
        """The examples, with what the metadata holds of the initial model's outputs for them."""
        return list(examples)

    def lacks_reference(self, example: "Example") -> bool:
        """Whether the metadata does not hold what the initial model says of it."""
        return False


def network_of(model: "Model", tasks: Sequence[Task]) -> Network:
    """The model with the heads of its tasks."""
    heads = [(task.name, task.head) for task in tasks]
    return Network(model, tuple((name, head) for name, head in heads if head is not None))


def body(params: "Params") -> "Params":
    """The model's own parameters among a network's."""
    return {name: value for name, value in params.items() if name != "heads"}


def require_decoder(name: str, model: ModelConfig, *, alone: bool = False) -> None:
    """Raises UserError where the model cannot write; with `alone`, where it has an encoder too."""
    if alone and (model.num_encoder_layers or not model.num_decoder_layers):
        reason = "only a decoder reads and writes in turn"
        raise UserError(f"task {name}", reason, "begin with a decoder")
    if not model.num_decoder_layers:
        reason = "an encoder writes no text"
        raise UserError(f"task {name}", reason, "use a decoder or an encoder-decoder")
