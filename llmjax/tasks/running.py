"""A task's model over examples: its loss, its outputs, its predictions."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax.data.batch import Arrays, place_batch
from llmjax.interruption import between_batches
from llmjax.losses.loss import Loss
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.parallel.mesh import axis_size, reshard, use_mesh
from llmjax.tasks.example import Example
from llmjax.tasks.packing import Shape, lay_out, pack
from llmjax.tasks.task import Found, Outputs, Task


class Sums(NamedTuple):
    """What a task's loss adds up to.

    Attributes:
      nats: of all targets (squares, of a regression).
      weight: of all targets.
      correct: of those told rightly.
    """

    nats: float
    weight: float
    correct: float

    @property
    def loss(self) -> float:
        """Per unit of weight; NaN where nothing had a target."""
        return self.nats / self.weight if self.weight else float("nan")


def score(
    task: Task,
    model: Model,
    params: Params,
    examples: Sequence[Example],
    shape: Shape,
    batch_size: int,
    mesh: Mesh | None,
) -> Sums:
    """The loss over all examples, without dropout."""
    sums = np.zeros(3)
    for _, arrays in _batches(examples, shape, batch_size, mesh):
        with use_mesh(mesh):
            loss = _loss(task, model, params, arrays)
        correct = loss.sums["accuracy"].total if "accuracy" in loss.sums else 0.0
        sums += np.array([*loss.sums["loss"], correct], np.float64)
    return Sums(*sums.tolist())


def outputs(
    task: Task,
    model: Model,
    params: Params,
    examples: Sequence[Example],
    shape: Shape,
    batch_size: int,
    mesh: Mesh | None,
) -> list[Found]:
    """What the model says of each example, in their order."""
    found: list[Found] = [{} for _ in examples]
    for rows, arrays in _batches(examples, shape, batch_size, mesh):
        with use_mesh(mesh):
            told = jax.device_get(_outputs(task, model, params, arrays))
        for row, numbers in enumerate(rows):
            at = 0
            for slot, number in enumerate(numbers):
                size = examples[number].length
                found[number] = {name: x[row, slot] for name, x in told.slots.items()}
                found[number] |= {name: x[row, at : at + size] for name, x in told.tokens.items()}
                at += size
    return found


def _batches(
    examples: Sequence[Example], shape: Shape, batch_size: int, mesh: Mesh | None
) -> Iterator[tuple[list[list[int]], dict[str, jax.Array]]]:
    """All examples once: which rows hold which, and their arrays on the devices."""
    parts = 1 if mesh is None else axis_size(mesh, "batch")
    size = -(-batch_size // parts) * parts
    rows = pack(examples, range(len(examples)), shape)
    for first in range(0, len(rows), size):
        between_batches()
        some = rows[first : first + size]
        arrays = lay_out(examples, [*some, *[[]] * (size - len(some))], shape)
        yield some, place_batch(arrays, shape.spec(size), mesh)


@partial(jax.jit, static_argnames=("task", "model"))
def _loss(task: Task, model: Model, params: Params, batch: dict[str, jax.Array]) -> Loss:
    return task.loss(model, params, batch, None)


@partial(jax.jit, static_argnames=("task", "model"))
def _outputs(task: Task, model: Model, params: Params, batch: dict[str, jax.Array]) -> Outputs:
    """Whole on every device."""
    told = task.outputs(model, params, batch)
    told = Outputs(dict(told.slots), dict(told.tokens))
    return jax.tree.map(lambda x: reshard(x, *[None] * x.ndim), told)


def arrays_of(examples: Sequence[Example], shape: Shape) -> Arrays:
    """The arrays of examples in as few rows as they take, in order: for tests and trials."""
    return lay_out(examples, pack(examples, range(len(examples)), shape), shape)
