"""What every task offers: from rows of a table to a loss, and from the model back to answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np

from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.losses.loss import Loss
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.example import Example
from llmjax.tasks.heads import Head

if TYPE_CHECKING:
    from llmjax.metrics.metric import Metrics

Batch = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Facts:
    """What a task found in the examples to learn from; kept with the run."""

    labels: tuple[str, ...] = ()
    """In the order of the head's outputs."""
    counts: tuple[int, ...] = ()
    """How many of the examples have each label."""
    mean: float = 0.0
    """Of the numbers that are told."""
    chat_template: str | None = None
    """How messages are spelt, where the tokenizer does not say it."""
    references: tuple[tuple[str, float, float], ...] = ()
    """(example, log-likelihoods of its two answers) by the model as it began."""

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Facts":
        """The facts that `to_dict` gave."""
        lists = {name: tuple(stored[name]) for name in ("labels", "counts")}
        lists["references"] = tuple(map(tuple, stored.get("references", ())))
        return cls(**{**stored, **lists})

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


class Setting(NamedTuple):
    """Where a task is done.

    Attributes:
      tokenizer: of the model.
      model: its architecture.
      length: tokens in a row, and so the most of an example.
    """

    tokenizer: Tokenizer
    model: ModelConfig
    length: int


class Outputs(NamedTuple):
    """What a model says of a batch, float32.

    Attributes:
      slots: name -> [R, E, ...], of each example.
      tokens: name -> [R, L, ...], of each token.
    """

    slots: Mapping[str, jax.Array] = MappingProxyType({})
    tokens: Mapping[str, jax.Array] = MappingProxyType({})


Found = dict[str, np.ndarray]
"""The outputs of one example: of slots [...], of tokens [n, ...] for its n tokens."""

Write = Callable[[Sequence[Sequence[int]], int, int], list[str]]
"""(prompts' tokens, most new tokens, beams) -> the text that the model writes after each."""


class Task(Protocol):
    """One kind of examples, on one model. Immutable; its functions of arrays are pure."""

    @property
    def setting(self) -> Setting: ...
    @property
    def config(self) -> TaskConfig: ...
    @property
    def facts(self) -> Facts: ...
    @property
    def head(self) -> Head | None:
        """What stands on the model for it."""

    @property
    def paired(self) -> bool:
        """Whether an example has two segments."""

    @property
    def outputs_per_target(self) -> int:
        """k: how many numbers an example's target has."""

    def examples(self, rows: Sequence[Row]) -> list[Example]:
        """Encoded rows; what is longer than a row is cut, with a warning.

        Raises:
          UserError: a row lacks a column, or holds what cannot be read; it names the row.
        """

    def loss(self, model: Model, params: Params, batch: Batch, key: jax.Array | None) -> Loss:
        """Sums over the batch; `params` are the network's, heads included."""

    def outputs(self, model: Model, params: Params, batch: Batch) -> Outputs:
        """What predictions are made of."""

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], found: Sequence[Found], write: Write
    ) -> list[dict[str, Any]]:
        """What the model says of each row, as plain data."""

    def measure(self, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]) -> "Metrics":
        """How good it is.

        Raises:
          UserError: a row has no answer to compare with.
        """


def body(params: Params) -> Params:
    """The model's own parameters among a network's."""
    return {name: value for name, value in params.items() if name != "heads"}
