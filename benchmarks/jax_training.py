"""Our training step on fixed random tokens, for benchmarks."""

from collections.abc import Mapping

import jax
import numpy as np

from llmjax.data.batch import Batch
from llmjax.losses.loss import Loss
from llmjax.losses.token_loss import token_loss
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import Optimizer, make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import place
from llmjax.state import Tree, make_state
from llmjax.step import Step, make_train_step

CONSTANT = ScheduleConfig(shape="constant", warmup_steps=0)


def token_rows(
    rows: int, length: int, vocabulary: int, documents: int | None = 1
) -> dict[str, np.ndarray]:
    """A batch of random tokens, arrays [rows, length].

    Args:
      rows: of the batch.
      length: of a row.
      vocabulary: tokens are below it.
      documents: that each row is packed with, of random lengths; None: the row is not packed, and
        there are no segments.
    """
    random = np.random.default_rng(0)
    tokens = random.integers(0, vocabulary, (rows, length + 1), dtype=np.int32)
    starts = np.zeros((rows, length), np.int32)
    for row in starts:
        row[random.choice(np.arange(1, length), (documents or 1) - 1, replace=False)] = 1
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((rows, length), np.float32),
        "positions": places - np.maximum.accumulate(starts * places, axis=1),
    }
    if documents is not None:
        batch["segments"] = 1 + np.cumsum(starts, axis=1, dtype=np.int32)
    return batch


def adamw_step(
    model: Model, options: Mapping[str, str | bool | int] | None = None
) -> tuple[Step, Optimizer]:
    """A step with clipping and AdamW, and its optimizer; `options`: of the compiler."""
    optimizer = make_optimizer(AdamWConfig(schedule=CONSTANT), 1000, model.logical_axes())

    def loss(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
        return token_loss(model, params, batch)

    step = make_train_step(loss, optimizer, seed=0, clip_norm=1.0, compiler_options=options)
    return step, optimizer


class JaxTraining:
    """Training on one batch again and again."""

    def __init__(
        self,
        model: Model,
        batch: Mapping[str, np.ndarray],
        mesh: jax.sharding.Mesh,
        options: Mapping[str, str | bool | int] | None = None,
    ):
        self._train_step, optimizer = adamw_step(model, options)
        self._state = make_state(model, optimizer, 0, mesh)
        self._batch = {name: place(array, mesh, "batch", "length") for name, array in batch.items()}
        self._mesh = mesh

    def step(self) -> None:
        """Starts a step."""
        with jax.set_mesh(self._mesh):
            self._state, self._metrics = self._train_step(self._state, self._batch)

    def wait(self) -> float:
        """Waits until all steps are done; returns the loss of the last one."""
        jax.block_until_ready(self._state)
        return float(self._metrics.objective)
