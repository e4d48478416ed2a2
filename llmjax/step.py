"""One update: a pure function of state and batch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from llmjax.data.batch import Batch
from llmjax.losses.loss import Loss, Sum
from llmjax.optimizers.optimizer import Optimizer
from llmjax.parallel import mesh
from llmjax.state import TrainState, Tree, join

LossFunction = Callable[[Tree, Batch, jax.Array | None], Loss]
"""(all params, batch, dropout key or None) -> its loss."""


class StepMetrics(NamedTuple):
    """What a step reports, float32 [] each."""

    objective: jax.Array
    """Per unit of weight."""
    sums: dict[str, Sum]
    """What the loss names."""
    tokens: jax.Array
    """That the model read."""
    gradient_norm: jax.Array
    """Before clipping, of the parameters that are trained."""
    learning_rate: jax.Array
    skipped: jax.Array
    """1 where the step changed nothing, else 0."""


Step = Callable[..., tuple[TrainState, StepMetrics]]
"""(state, batch, frozen parameters: none by default) -> (state, metrics)."""


def make_train_step(
    loss_function: LossFunction,
    optimizer: Optimizer,
    *,
    seed: int,
    clip_norm: float | None = None,
    accumulate: int = 1,
) -> Step:
    """Compiles the update; call it under `jax.set_mesh`. The state that it is given is used up.

    The gradient is that of the summed loss divided by the batch's whole weight, however the batch
    is split over devices or in time. An update whose loss or gradient norm is not finite leaves
    parameters and optimizer state as they were; the step counts all the same.

    Args:
      loss_function: the loss of a batch (or a part of one).
      optimizer: applies the gradient.
      seed: dropout's key is this seed's, folded with the step and the part.
      clip_norm: gradients longer than this are scaled down to it.
      accumulate: parts of the batch, one after the other; the batch divides by it, and each part
        by the devices that share the batch.
    """

    def step(
        state: TrainState, batch: Batch, frozen: Tree | None = None
    ) -> tuple[TrainState, StepMetrics]:
        def loss_of_all(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
            return loss_function(join(params, frozen or {}), batch, key)

        key = jax.random.fold_in(jax.random.key(seed), state.step)
        total, gradients = _sum_over_parts(loss_of_all, state.params, batch, key, accumulate)
        weight = jnp.where(total.weight > 0, total.weight, 1.0)
        gradients = optimizer.masked(gradients)
        objective, norm = total.objective / weight, optax.global_norm(gradients) / weight
        factor = 1.0 if clip_norm is None else clip_norm / jnp.maximum(norm, clip_norm)
        gradients = jax.tree.map(lambda g: g * (factor / weight), gradients)
        updated = optimizer.apply(state.params, gradients, state.opt_state, state.step)
        finite = jnp.isfinite(objective) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
        )
        metrics = StepMetrics(
            objective=objective,
            sums=total.sums,
            tokens=_tokens(batch),
            gradient_norm=norm,
            learning_rate=jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
            skipped=1.0 - finite.astype(jnp.float32),
        )
        return TrainState(state.step + 1, *kept), metrics

    return jax.jit(step, donate_argnums=0)


def _sum_over_parts(
    loss_function: LossFunction, params: Tree, batch: Batch, key: jax.Array, parts: int
) -> tuple[Loss, Tree]:
    """Loss and gradient of a batch, in one piece or in `parts` pieces one after the other."""

    def objective(params: Tree, part: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
        loss = loss_function(params, part, key)
        return loss.objective, loss

    def of_part(part: Batch, index: int | jax.Array) -> tuple[Loss, Tree]:
        differentiate = jax.grad(objective, has_aux=True)
        gradients, loss = differentiate(params, part, jax.random.fold_in(key, index))
        return loss, gradients

    if parts == 1:
        return of_part(batch, 0)

    def add(carry: tuple, item: tuple[Batch, jax.Array]) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, carry, of_part(*item)), None

    split = jax.tree.map(lambda x: _split(x, parts), dict(batch))
    shapes = jax.eval_shape(
        lambda split: loss_function(params, jax.tree.map(lambda x: x[0], split), key), split
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    start = (zeros, jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, start, (split, jnp.arange(parts)))[0]


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, L] -> [parts, B / parts, L]: each device's rows are spread over all parts, in place.

    A part made of neighbouring rows would lie on some of the devices only.
    """
    shape = (x.shape[0] // parts, parts, *x.shape[1:])
    if not mesh.has_mesh():
        return jnp.moveaxis(x.reshape(shape), 1, 0)
    # Stated, not inferred: of parts of one row JAX would split the parts.
    rows, *rest = jax.typeof(x).sharding.spec
    spec = jax.sharding.PartitionSpec(rows, None, *rest)
    return jnp.moveaxis(x.reshape(shape, out_sharding=spec), 1, 0)


def _tokens(batch: Batch) -> jax.Array:
    """Tokens that the model reads, padding left out, float32 []."""
    segments = [batch[name] for name in ("segments", "encoder_segments") if name in batch]
    return sum((jnp.sum((x > 0).astype(jnp.float32)) for x in segments), jnp.float32(0.0))
