"""Parametrizations: the base is standard, and updates of larger models keep their size."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.trees import flatten
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.parametrization import (
    CompleteP,
    MuP,
    StandardParametrization,
    parameter_scales,
    parametrization_problems,
    scaled,
)
from llmjax.optimizers.standard import AdamWConfig, SgdConfig

BASE = ModelConfig(d_model=32, num_decoder_layers=2, num_heads=2, max_length=16, d_ff=64)
CONSTANT = ScheduleConfig("constant", warmup_steps=0)
ADAMW = AdamWConfig(learning_rate=0.01, schedule=CONSTANT, clip_norm=None)
MUON = MuonConfig(learning_rate=0.05, schedule=CONSTANT, clip_norm=None)


def sized(width: int = 1, depth: int = 1, **fields) -> Model:
    """The base model, so many times as wide and deep; heads keep their width."""
    config = replace(
        BASE,
        d_model=32 * width,
        num_heads=2 * width,
        d_ff=64 * width,
        num_decoder_layers=2 * depth,
        **fields,
    )
    return Model(resolve(config, 128), ComputeConfig(init_std=0.1))


def trained(model, parametrization, optimizer, steps: int = 4):
    """Parameters before and after some steps, and a batch."""
    axes = model.logical_axes()
    scales = parameter_scales(parametrization, model.config, optimizer, axes)
    make = make_optimizer(optimizer, steps, axes, scales=scales)
    batch = {
        name: jnp.asarray(np.asarray(x)) for name, x in tiny.batch(0, tiny.one_device()).items()
    }
    start = model.init(jax.random.key(0))
    if scales is not None:
        start = scaled(start, {path: scale.init for path, scale in scales.items()})

    @jax.jit
    def step(params, state, count):
        def mean(params):
            loss = token_loss(model, params, batch)
            return loss.objective / loss.weight

        return make.apply(params, jax.grad(mean)(params), state, count)

    params, state = start, make.init(start)
    for count in range(steps):
        params, state = step(params, state, jnp.int32(count))
    return start, params, batch


def change(model, parametrization, optimizer) -> float:
    """Root mean square of what the steps change in the logits."""
    before, after, batch = trained(model, parametrization, optimizer)
    logits = [model.apply(params, batch["inputs"]) for params in (before, after)]
    return float(jnp.sqrt(jnp.mean(jnp.square(logits[1] - logits[0]))))


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_the_base_model_trains_as_in_the_standard_parametrization(optimizer):
    config = CompleteP(base_width=32, base_depth=2)
    expected = trained(sized(), StandardParametrization(), optimizer)[1]
    for (path, value), (_, want) in zip(
        flatten(trained(sized(), config, optimizer)[1]), flatten(expected), strict=True
    ):
        np.testing.assert_array_equal(value, want, err_msg=path)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_updates_change_wider_and_deeper_models_as_much(optimizer, tied):
    sizes = [(1, 1), (8, 1), (1, 8)]
    models = [sized(*size, tie_embeddings=tied) for size in sizes]
    config = CompleteP(base_width=32, base_depth=2)
    base, wide, deep = (change(model, config, optimizer) for model in models)
    assert 0.5 < wide / base < 2
    assert 0.5 < deep / base < 2
    assert change(models[1], StandardParametrization(), optimizer) / base > 2


@pytest.mark.parametrize(
    ("config", "fields", "optimizer", "problem"),
    [
        (MuP(), {}, SgdConfig(), "adamw, lion and muon"),
        (MuP(base_width=0), {}, ADAMW, "base_width: 0 must be at least 1"),
        (CompleteP(), {"norm_placement": "post"}, ADAMW, "norm_placement=pre, not post"),
        (MuP(), {"norm_unit_offset": True}, MUON, "tie_embeddings=false"),
    ],
)
def test_what_it_is_not_worked_out_for_is_refused(config, fields, optimizer, problem):
    model = replace(BASE, **fields)
    assert [problem in line for line in parametrization_problems(config, model, optimizer)] == [
        True
    ]
    assert not list(parametrization_problems(StandardParametrization(), model, optimizer))
