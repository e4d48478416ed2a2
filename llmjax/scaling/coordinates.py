"""The coordinate check: whether activations and their change by updates keep their size.

In a parametrization that transfers hyperparameters, a few steps at one learning rate change the
states and logits of a wider or deeper model as much as those of a narrow one (Yang et al. 2022,
arXiv:2203.03466, appendix D.1). The models are trained on one batch of random tokens: it is their
coordinates that are compared, not what they learn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.parametrization import parameter_scales, scaled
from llmjax.run.config.schema import Config
from llmjax.run.planning.plan import vocabulary_of

ROWS, LENGTH = 4, 64
"""Of the batch, at most."""
QUANTITIES = ("logits", "change of states", "change of logits")
"""Root mean squares: of the logits at the start; of what the steps change in the last states,
relative to theirs, and in the logits."""


@dataclass(frozen=True)
class Coordinates:
    """A model's sizes."""

    along: str
    """What was varied: width or depth."""
    factor: int
    """Times that of the config."""
    values: tuple[float, ...]
    """By QUANTITIES."""


def coordinate_check(
    config: Config, factors: Sequence[int] = (1, 2, 4, 8), steps: int = 4
) -> list[Coordinates]:
    """Trains models of several widths and depths for a few steps.

    Args:
      config: the smallest model, and how it is trained.
      factors: of its width, at its depth; and of its depth, at its width.
      steps: of training, at the config's learning rate.
    """
    return [
        Coordinates(along, factor, _measured(config, model, steps))
        for along in ("width", "depth")
        for factor, model in _models(config.model, along, factors)
    ]


def exponents(found: Sequence[Coordinates], along: str) -> tuple[float, ...]:
    """How each quantity grows along width or depth: the slope of its logarithm; 0 does not."""
    kept = [each for each in found if each.along == along]
    x = np.log([each.factor for each in kept])
    y = np.log([each.values for each in kept])
    return tuple(float(slope) for slope in np.polyfit(x, y, 1)[0])


def _models(
    model: ModelConfig, along: str, factors: Sequence[int]
) -> Iterator[tuple[int, ModelConfig]]:
    for factor in factors:
        if along == "depth":
            yield factor, replace(model, num_decoder_layers=model.num_decoder_layers * factor)
            continue
        kv, d_ff = model.num_kv_heads, model.d_ff
        yield (
            factor,
            replace(
                model,
                d_model=model.d_model * factor,
                num_heads=model.num_heads * factor,
                num_kv_heads=None if kv is None else kv * factor,
                d_ff=None if d_ff is None else d_ff * factor,
            ),
        )


def _measured(config: Config, shape: ModelConfig, steps: int) -> tuple[float, ...]:
    compute = ComputeConfig(init_std=config.compute.init_std)
    model = Model(resolve(shape, vocabulary_of(config)), compute)
    schedule = ScheduleConfig("constant", warmup_steps=0)
    optimizer = replace(config.optimizer, schedule=schedule, accumulate=1)
    axes = model.logical_axes()
    scales = parameter_scales(config.parametrization, model.config, optimizer, axes)
    update = make_optimizer(optimizer, steps, axes, scales=scales)
    length = min(LENGTH, shape.max_length)
    drawn = jax.random.randint(
        jax.random.key(config.seed), (ROWS, length + 1), 0, model.config.vocab_size
    )
    batch = {
        "inputs": drawn[:, :-1],
        "targets": drawn[:, 1:],
        "weights": jnp.ones((ROWS, length)),
        "segments": jnp.ones((ROWS, length), jnp.int32),
        "positions": jnp.broadcast_to(jnp.arange(length), (ROWS, length)),
    }
    params = model.init(jax.random.key(config.seed))
    if scales is not None:
        params = scaled(params, {path: scale.init for path, scale in scales.items()})

    def mean_loss(params: Params) -> jax.Array:
        loss = token_loss(model, params, batch)
        return loss.objective / loss.weight

    @jax.jit
    def outputs(params: Params) -> tuple[jax.Array, jax.Array]:
        states = model.hidden(params, batch["inputs"])
        return states.astype(jnp.float32), model.logits(params, states)

    @jax.jit
    def trained(params: Params) -> Params:
        state = update.init(params)
        for step in range(steps):
            gradients = jax.grad(mean_loss)(params)
            params, state = update.apply(params, gradients, state, jnp.int32(step))
        return params

    before, after = outputs(params), outputs(trained(params))
    changes = [a - b for a, b in zip(after, before, strict=True)]
    return _rms(before[1]), _rms(changes[0]) / _rms(before[0]), _rms(changes[1])


def _rms(x: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))
