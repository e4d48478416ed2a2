"""The train step: a pure function of state and batch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.data.batch import Batch
from llmjax.losses.loss import Loss, Sum
from llmjax.optimizers.optimizer import Optimizer
from llmjax.parallel.microbatches import split
from llmjax.state import TrainState, Tree, join

LossFunction = Callable[[Tree, Batch, jax.Array | None], Loss]
"""(all params, batch, dropout key or None) -> its loss."""

Prepare = Callable[[Tree], Callable[[Tree], Tree]]
"""All params -> a function of the same params, for each microbatch, to what the loss takes; see
`Model.quantized_once`."""


class StepMetrics(NamedTuple):
    """Metrics of a step, each float32 []."""

    objective: jax.Array
    """Mean over the batch's weight."""
    sums: dict[str, Sum]
    """Named by the loss."""
    tokens: jax.Array
    """Tokens that the model read, without padding."""
    gradient_norm: jax.Array
    """Of the trained parameters, before clipping."""
    learning_rate: jax.Array
    skipped: jax.Array
    """1 if the update was skipped, else 0."""


Step = Callable[..., tuple[TrainState, StepMetrics]]
"""(state, batch, frozen parameters = None) -> (state, metrics)."""


def make_train_step(
    loss_function: LossFunction,
    optimizer: Optimizer,
    *,
    seed: int,
    clip_norm: float | None = None,
    accumulate: int = 1,
    prepare: Prepare | None = None,
    compiler_options: Mapping[str, str | bool | int] | None = None,
) -> Step:
    """Returns the jitted update; call it under `jax.set_mesh`. The input state is donated.

    The gradient is that of the summed loss divided by the batch's total weight, however the batch
    is split over devices or microbatches. If the loss or the gradient norm is not finite, or a
    spike (see `optimizers.spikes`), the parameters and optimizer state stay as they were; the step
    still counts.

    Args:
      loss_function: the loss of a batch or microbatch.
      optimizer: applies the gradient.
      seed: for dropout, folded with the step and the microbatch's index.
      clip_norm: gradients with a larger norm are scaled down to it.
      accumulate: number of microbatches, computed one after another; it divides the batch, and
        the devices that share the batch divide a microbatch.
      prepare: computed once per step, without derivative.
      compiler_options: of XLA, by name.
    """

    def step(
        state: TrainState, batch: Batch, frozen: Tree | None = None
    ) -> tuple[TrainState, StepMetrics]:
        prepared = None if prepare is None else prepare(join(state.params, frozen or {}))

        def full_loss(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
            every = join(params, frozen or {})
            return loss_function(every if prepared is None else prepared(every), batch, key)

        key = jax.random.fold_in(jax.random.key(seed), state.step)
        total, gradients = _accumulate(full_loss, state.params, batch, key, accumulate)
        weight = jnp.where(total.weight > 0, total.weight, 1.0)
        gradients = optimizer.masked(gradients)
        objective, norm = total.objective / weight, optimizer.gradient_norm(gradients) / weight
        factor = 1.0 if clip_norm is None else clip_norm / jnp.maximum(norm, clip_norm)
        gradients = jax.tree.map(lambda g: g * (factor / weight), gradients)
        admitted, opt_state = optimizer.admit(state.opt_state, objective, norm)
        updated = optimizer.apply(state.params, gradients, opt_state, state.step)
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(admitted, new, old), updated, (state.params, opt_state)
        )
        metrics = StepMetrics(
            objective=objective,
            sums=total.sums,
            tokens=_tokens(batch),
            gradient_norm=norm,
            learning_rate=jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
            skipped=1.0 - admitted.astype(jnp.float32),
        )
        return TrainState(state.step + 1, params, opt_state), metrics

    options = dict(compiler_options) if compiler_options else None
    return jax.jit(step, donate_argnums=0, compiler_options=options)


def _accumulate(
    loss_function: LossFunction, params: Tree, batch: Batch, key: jax.Array, count: int
) -> tuple[Loss, Tree]:
    """Sums loss and gradient over `count` microbatches, computed one after another."""

    def objective(params: Tree, batch: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = loss_function(params, batch, key)
        return loss.objective, loss

    def loss_and_gradients(batch: Batch, index: int | jax.Array) -> tuple[Loss, Tree]:
        differentiate = jax.grad(objective, has_aux=True)
        gradients, loss = differentiate(params, batch, jax.random.fold_in(key, index))
        return loss, gradients

    if count == 1:
        return loss_and_gradients(batch, 0)

    def add(carry: tuple, item: tuple[Batch, jax.Array]) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, carry, loss_and_gradients(*item)), None

    parts = jax.tree.map(lambda x: split(x, count), dict(batch))
    shapes = jax.eval_shape(
        lambda parts: loss_function(params, jax.tree.map(lambda x: x[0], parts), key), parts
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = (zeros, jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, start, (parts, jnp.arange(count)))[0]


def _tokens(batch: Batch) -> jax.Array:
    """Tokens that the model reads, without padding, float32 []."""
    segments = [batch[name] for name in ("segments", "encoder_segments") if name in batch]
    return sum((jnp.sum((x > 0).astype(jnp.float32)) for x in segments), jnp.float32(0.0))
