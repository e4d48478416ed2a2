"""Runs a task's model over examples: loss, outputs, predictions, metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.data.batch import place_batch
from llmjax.data.tables.table import Row
from llmjax.interruption import between_batches
from llmjax.losses.loss import Loss
from llmjax.metrics.metric import Metrics
from llmjax.parallel.mesh import reshard, rounded_up, use_mesh
from llmjax.tasks.config import TaskConfig
from llmjax.tasks.examples import Example
from llmjax.tasks.packing import RowShape, lay_out, pack, shape_of
from llmjax.tasks.task import ExampleOutputs, Generate, Outputs, PredictionData, Task, body

if TYPE_CHECKING:
    from llmjax.data.tokenizers.tokenizer import Tokenizer
    from llmjax.model.model import Model
    from llmjax.model.params import Params

VALIDATION_SET = "its validation set"
"""How the validation rows are named."""
MAX_MISTAKES = 20
MAX_CHARACTERS = 300
"""Of a mistake's text."""


class LossTotals(NamedTuple):
    """A task's loss, summed over examples.

    Attributes:
      nll: negative log-likelihood (of a regression: squared errors).
      weight: of the targets.
      correct: weight of the targets predicted correctly.
    """

    nll: float
    weight: float
    correct: float

    @property
    def loss(self) -> float:
        """Loss per unit of weight; NaN without targets."""
        return self.nll / self.weight if self.weight else float("nan")


@dataclass(frozen=True, eq=False)
class TaskResult:
    """Predictions for rows, with loss and metrics.

    Attributes:
      rows: of the table.
      predictions: one per row.
      metrics: of the predictions; None if no rows were predicted.
      totals: of the loss.
    """

    rows: list[Row]
    predictions: list[dict[str, Any]]
    metrics: Metrics | None
    totals: LossTotals

    def to_dict(self, config: TaskConfig, data: str = VALIDATION_SET) -> dict[str, Any]:
        """Convert metrics, tables and the worst mistakes to plain data, for JSON and the report.

        Args:
          config: of the task.
          data: name of the rows' source.
        """
        return {
            "kind": config.kind,
            "data": data,
            "loss": self.totals.loss,
            **(self.metrics.to_dict() if self.metrics else {}),
            "mistakes": worst_mistakes(config, self.rows, self.predictions) if self.metrics else [],
        }


def evaluate(
    task: Task,
    model: "Model",
    params: "Params",
    rows: list[Row],
    examples: Sequence[Example],
    *,
    batch_size: int,
    mesh: Mesh | None,
    limit: int | None = None,
) -> TaskResult:
    """Compute loss, predictions and metrics on rows.

    Args:
      task: the task.
      model: the model.
      params: the network's parameters.
      rows: the table rows.
      examples: the rows, encoded.
      batch_size: packed rows per batch.
      mesh: of the parameters; None for one device.
      limit: predict only the first `limit` rows (the loss is over all); None: all.

    Raises:
      UserError: a row has no target.
    """
    totals = total_loss(task, model, params, examples, batch_size, mesh)
    if limit is not None:
        rows = rows[:limit]
        examples = [example for example in examples if example.row < limit]
    if not rows:
        return TaskResult(rows, [], None, totals)
    predictions = predict(task, model, params, rows, examples, batch_size=batch_size, mesh=mesh)
    return TaskResult(rows, predictions, task.metrics(rows, predictions), totals)


def predict(
    task: Task,
    model: "Model",
    params: "Params",
    rows: Sequence[Row],
    examples: Sequence[Example],
    *,
    batch_size: int,
    mesh: Mesh | None,
) -> list[dict[str, Any]]:
    """Predict each row from its examples; see `evaluate`."""
    outputs = compute_outputs(task, model, params, examples, batch_size, mesh)
    generate = generator(model, params, task.context.tokenizer, mesh, batch_size)
    return task.predictions(PredictionData(rows, examples, outputs, generate))


def worst_mistakes(
    config: TaskConfig, rows: Sequence[Row], predictions: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the wrong predictions of the highest cost, {"cost", "place", "text", "truth",
    "predicted"} each."""
    mistakes: list[dict[str, Any]] = []
    for row, prediction in zip(rows, predictions, strict=True):
        if (mistake := config.mistake(row, prediction)) is not None:
            cost, truth, predicted = mistake
            mistakes.append(
                {
                    "cost": cost,
                    "place": row.place,
                    "text": _shown(config, row),
                    "truth": truth,
                    "predicted": predicted,
                }
            )
    return sorted(mistakes, key=lambda mistake: -mistake["cost"])[:MAX_MISTAKES]


def _shown(config: TaskConfig, row: Row) -> str:
    """Format a row's input for display."""
    texts = [" ".join(map(str, v)) if isinstance(v, list) else str(v) for v in config.shown(row)]
    text = " ⏐ ".join(texts)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def row_shape(task: Task, examples: Sequence[Example]) -> RowShape:
    """Return the shape of packed rows of a task's examples."""
    encodes = task.context.model.is_encoder_decoder
    return shape_of(examples, task.context.length, encodes=encodes)


def total_loss(
    task: Task,
    model: "Model",
    params: "Params",
    examples: Sequence[Example],
    batch_size: int,
    mesh: Mesh | None,
) -> LossTotals:
    """Sum the loss over all examples, without dropout."""
    totals = np.zeros(3)
    for _, batch in _batches(examples, row_shape(task, examples), batch_size, mesh):
        with use_mesh(mesh):
            loss = packed_loss(task, model, params, batch)
        correct = loss.sums["accuracy"].total if "accuracy" in loss.sums else 0.0
        totals += np.array([*loss.sums["loss"], correct], np.float64)
    return LossTotals(*totals.tolist())


def compute_outputs(
    task: Task,
    model: "Model",
    params: "Params",
    examples: Sequence[Example],
    batch_size: int,
    mesh: Mesh | None,
) -> list[ExampleOutputs]:
    """Compute the model's outputs for each example, in order."""
    outputs: list[ExampleOutputs] = [{} for _ in examples]
    for rows, batch in _batches(examples, row_shape(task, examples), batch_size, mesh):
        with use_mesh(mesh):
            arrays = jax.device_get(packed_outputs(task, model, params, batch))
        for row, numbers in enumerate(rows):
            start = 0
            for slot, number in enumerate(numbers):
                end = start + examples[number].length
                outputs[number] = {name: x[row, slot] for name, x in arrays.slots.items()}
                outputs[number] |= {name: x[row, start:end] for name, x in arrays.tokens.items()}
                start = end
    return outputs


def generator(
    model: "Model",
    params: "Params",
    tokenizer: "Tokenizer",
    mesh: Mesh | None,
    batch_size: int = 32,
) -> Generate:
    """Return a function that generates text, greedily or by beam search.

    Args:
      model: one with a decoder.
      params: the network's parameters.
      tokenizer: the model's.
      mesh: of the parameters; None for one device.
      batch_size: texts per batch.
    """

    def generate(prompts: Sequence[Sequence[int]], most: int, beams: int) -> list[str]:
        from llmjax.decoding.completions import stream_completions
        from llmjax.decoding.config import DecodingConfig

        config = DecodingConfig(
            max_new_tokens=most, temperature=0.0, beams=beams, batch_size=batch_size * beams
        )
        texts = [""] * len(prompts)
        pieces = stream_completions(model, body(params), tokenizer, prompts, config, mesh)
        for piece in pieces:
            texts[piece.row] += piece.text
        return texts

    return generate


def _batches(
    examples: Sequence[Example], shape: RowShape, batch_size: int, mesh: Mesh | None
) -> Iterator[tuple[list[list[int]], dict[str, jax.Array]]]:
    """Yield all examples once: the indices in each row, and the arrays on the devices."""
    size = rounded_up(batch_size, mesh, "batch")
    rows = pack(examples, range(len(examples)), shape)
    for first in range(0, len(rows), size):
        between_batches()
        group = rows[first : first + size]
        arrays = lay_out(examples, [*group, *[[]] * (size - len(group))], shape)
        yield group, place_batch(arrays, shape.spec(size), mesh)


@partial(jax.jit, static_argnames=("task", "model"))
def packed_loss(task: Task, model: "Model", params: "Params", batch: dict[str, jax.Array]) -> Loss:
    """Compute the loss of packed examples, without dropout (compiled)."""
    return task.loss(model, params, batch, None)


@partial(jax.jit, static_argnames=("task", "model"))
def packed_outputs(
    task: Task, model: "Model", params: "Params", batch: dict[str, jax.Array]
) -> Outputs:
    """Compute the outputs of packed examples, replicated on every device (compiled)."""
    outputs = task.outputs(model, params, batch)
    outputs = Outputs(dict(outputs.slots), dict(outputs.tokens))
    return jax.tree.map(lambda x: reshard(x, *[None] * x.ndim), outputs)
