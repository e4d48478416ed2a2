"""One update, and one evaluation of the loss: pure functions of state and batch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from llmjax.optimizers.optimizer import Optimizer
from llmjax.parallel import mesh
from llmjax.state import TrainState, Tree, join

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Sums(Protocol):
    """What a loss function returns: sums over the batch, float32 [] each (`losses.Loss`)."""

    @property
    def total(self) -> jax.Array: ...
    @property
    def nats(self) -> jax.Array: ...
    @property
    def weight(self) -> jax.Array: ...
    @property
    def correct(self) -> jax.Array: ...


LossFunction = Callable[[Any, Batch, jax.Array | None], Sums]
"""(all params, batch, dropout key or None) -> sums; `total` is what is differentiated."""

Step = Callable[..., tuple[TrainState, Metrics]]
"""(state, batch, parameters that do not learn: none by default) -> (state, metrics)."""


class _Parts(NamedTuple):
    """A loss's sums, and its gradient: all of them add up over parts of a batch."""

    total: jax.Array
    nats: jax.Array
    weight: jax.Array
    correct: jax.Array
    gradients: Any


def make_train_step(
    loss_function: LossFunction,
    optimizer: Optimizer,
    *,
    seed: int,
    clip_norm: float | None = None,
    accumulate: int = 1,
    token_bytes: jax.Array | None = None,
) -> Step:
    """Compiles the update; call it under `jax.set_mesh`. The state that it is given is used up.

    The gradient is that of the summed loss divided by the batch's whole weight, however the batch
    is split over devices or in time. An update whose loss or gradient norm is not finite leaves
    parameters and optimizer state as they were; the step counts all the same.

    Args:
      loss_function: sums over a batch (or a part of one).
      optimizer: applies the gradient.
      seed: dropout's key is this seed's, folded with the step and the part.
      clip_norm: gradients longer than this are scaled down to it.
      accumulate: parts of the batch, one after the other; the batch divides by it, and each part
        by the devices that share the batch.
      token_bytes: int32 [vocab], the bytes of text of each token.

    Returns:
      (state, batch, parameters that do not learn) -> (state, metrics), all float32 []: sums `nats`,
      `weight`, `correct`, `tokens` (that the model reads) and `bytes` (of the targets' text);
      `loss` (the objective per unit of weight), `gradient_norm` (before clipping, of those that
      learn), `learning_rate`, `skipped` (1 or 0).
    """

    def step(
        state: TrainState, batch: Batch, frozen: Tree | None = None
    ) -> tuple[TrainState, Metrics]:
        def whole(params: Tree, batch: Batch, key: jax.Array | None) -> Sums:
            return loss_function(join(params, frozen or {}), batch, key)

        key = jax.random.fold_in(jax.random.key(seed), state.step)
        sums = _sum_over_parts(whole, state.params, batch, key, accumulate)
        weight = jnp.where(sums.weight > 0, sums.weight, 1.0)
        learnt = optimizer.masked(sums.gradients)
        loss, norm = sums.total / weight, optax.global_norm(learnt) / weight
        factor = 1.0 if clip_norm is None else clip_norm / jnp.maximum(norm, clip_norm)
        gradients = jax.tree.map(lambda g: g * (factor / weight), learnt)
        updated = optimizer.apply(state.params, gradients, state.opt_state, state.step)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), updated, (state.params, state.opt_state)
        )
        metrics = {
            "loss": loss,
            "nats": sums.nats,
            "weight": sums.weight,
            "correct": sums.correct,
            "tokens": _tokens(batch),
            "bytes": _text_bytes(token_bytes, batch),
            "gradient_norm": norm,
            "learning_rate": jnp.asarray(optimizer.learning_rate(state.step), jnp.float32),
            "skipped": 1.0 - finite.astype(jnp.float32),
        }
        return TrainState(state.step + 1, *kept), metrics

    return jax.jit(step, donate_argnums=0)


def _sum_over_parts(
    loss_function: LossFunction, params: Any, batch: Batch, key: jax.Array, parts: int
) -> _Parts:
    """Loss and gradient of a batch, in one piece or in `parts` pieces one after the other."""

    def objective(params: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
        sums = loss_function(params, part, key)
        return sums.total, sums

    def one(part: Batch, index: int | jax.Array) -> _Parts:
        differentiate = jax.value_and_grad(objective, has_aux=True)
        (total, sums), gradients = differentiate(params, part, jax.random.fold_in(key, index))
        return _Parts(total, sums.nats, sums.weight, sums.correct, gradients)

    if parts == 1:
        return one(batch, 0)

    def add(carry: _Parts, item: tuple[Batch, jax.Array]) -> tuple[_Parts, None]:
        return jax.tree.map(jnp.add, carry, one(*item)), None

    zero = jnp.float32(0.0)
    start = _Parts(zero, zero, zero, zero, jax.tree.map(jnp.zeros_like, params))
    split = jax.tree.map(lambda x: _split(x, parts), dict(batch))
    return jax.lax.scan(add, start, (split, jnp.arange(parts)))[0]


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, L] -> [parts, B / parts, L]: each device's rows are dealt out over all parts, in place.

    A part made of neighbouring rows would lie on some of the devices only.
    """
    shape = (x.shape[0] // parts, parts, *x.shape[1:])
    if not mesh.has_mesh():
        return jnp.moveaxis(x.reshape(shape), 1, 0)
    # Said, not inferred: of parts of one row JAX would split the parts.
    rows, *rest = jax.typeof(x).sharding.spec
    spec = jax.sharding.PartitionSpec(rows, None, *rest)
    return jnp.moveaxis(x.reshape(shape, out_sharding=spec), 1, 0)


def _text_bytes(token_bytes: jax.Array | None, batch: Batch) -> jax.Array:
    """UTF-8 bytes that the batch's targets of positive weight stand for, float32 []."""
    if token_bytes is None:
        return jnp.float32(0.0)
    targets = batch["targets"]
    sharding = mesh.out_sharding("batch", "length")
    sizes = token_bytes.at[targets].get(out_sharding=sharding)
    return jnp.sum(jnp.where(batch["weights"] > 0, sizes, 0).astype(jnp.float32))


def _tokens(batch: Batch) -> jax.Array:
    """Tokens that the model reads, padding left out, float32 []."""
    owners = [batch[name] for name in ("segments", "encoder_segments") if name in batch]
    return sum((jnp.sum((x > 0).astype(jnp.float32)) for x in owners), jnp.float32(0.0))


def make_eval_step(loss_function: LossFunction) -> Callable[[Any, Batch], Sums]:
    """Compiles the loss without dropout: (params, batch) -> sums over the batch, float32 []."""
    return jax.jit(lambda params, batch: loss_function(params, batch, None))
