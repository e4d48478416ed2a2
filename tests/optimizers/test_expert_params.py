"""How optimizers treat the parameters of experts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax import global_norm

from llmjax.losses.loss import Loss
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import TRAIN
from llmjax.model.moe_config import MoEConfig
from llmjax.model.routing import route
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.param_kinds import ParamKind, decay_mask, param_kind
from llmjax.optimizers.standard import AdafactorConfig, AdamWConfig, LionConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding
from llmjax.state import TrainState
from llmjax.step import make_train_step

FLAT = ScheduleConfig("constant", warmup_steps=0)
AXES = {
    "router": {"kernel": ("embed", "router"), "selection_bias": ("selection",)},
    "up": ("layers", "experts", "expert_embed", "mlp"),
    "down": ("layers", "experts", "mlp", "expert_embed"),
    "bias": ("layers", "experts", "mlp"),
}
SHAPES = {
    "router": {"kernel": (8, 4), "selection_bias": (4,)},
    "up": (2, 4, 8, 16),
    "down": (2, 4, 16, 8),
    "bias": (2, 4, 16),
}


def draw(seed):
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(generator.standard_normal(shape, np.float32)),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def test_kinds():
    assert param_kind(("layers", "embed", "router")) == ParamKind.ROUTER
    assert param_kind(("layers", "router")) == ParamKind.VECTOR
    assert param_kind(("layers", "selection")) == ParamKind.SELECTION_BIAS
    assert param_kind(AXES["up"]) == param_kind(AXES["down"]) == ParamKind.MATRIX
    assert param_kind(AXES["bias"]) == ParamKind.VECTOR
    mask = decay_mask(AXES, False)
    assert mask == {
        "router": {"kernel": True, "selection_bias": False},
        "up": True,
        "down": True,
        "bias": False,
    }


@pytest.mark.parametrize("config", [AdamWConfig, AdafactorConfig, LionConfig, MuonConfig])
def test_a_selection_bias_moves_by_its_rate_alone(config):
    optimizer = make_optimizer(config(schedule=FLAT), 10, AXES, bias_update_rate=0.01)
    params, gradients = draw(0), draw(1)
    state = optimizer.init(params)
    plain = dict(AXES, router={"kernel": AXES["router"]["kernel"]})
    rest = dict(params, router={"kernel": params["router"]["kernel"]})
    expected = jax.eval_shape(make_optimizer(config(schedule=FLAT), 10, plain).init, rest)
    assert jax.tree.structure(state) == jax.tree.structure(expected), "it has no moments"
    found, _ = jax.jit(optimizer.apply)(params, gradients, state, jnp.int32(0))
    before, sign = (
        params["router"]["selection_bias"],
        jnp.sign(gradients["router"]["selection_bias"]),
    )
    np.testing.assert_allclose(found["router"]["selection_bias"], before - 0.01 * sign, rtol=1e-6)
    without = dict(gradients, router={"kernel": gradients["router"]["kernel"]})
    assert optimizer.gradient_norm(gradients) == pytest.approx(float(global_norm(without)))


@pytest.mark.once
def test_muon_orthogonalizes_each_expert_by_itself():
    def updates(mesh):
        config = MuonConfig(learning_rate=1.0, schedule=FLAT, weight_decay=0.0)
        optimizer = make_optimizer(config, 10, AXES)
        params, gradients = draw(0), draw(1)
        if mesh is not None:
            shardings = jax.tree.map(
                lambda axes: named_sharding(mesh, *axes),
                AXES,
                is_leaf=lambda node: isinstance(node, tuple),
            )
            params, gradients = (jax.device_put(tree, shardings) for tree in (params, gradients))
        state = jax.jit(optimizer.init)(params)
        found, _ = jax.jit(optimizer.apply)(params, gradients, state, jnp.int32(0))
        return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, found)

    alone = updates(None)
    for name in ("up", "down"):
        values = np.linalg.svd(alone[name], compute_uv=False) / (0.2 * 4)
        assert values.shape == (2, 4, 8)
        assert values.min() > 0.5
        assert values.max() < 1.3
    mesh = make_mesh(MeshConfig(fsdp=2, expert=2, tensor=2))
    with jax.set_mesh(mesh):
        spread = updates(mesh)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), spread, alone)


@pytest.mark.once
def test_updates_of_the_bias_balance_a_skewed_router():
    """Of logits that prefer two experts to all others, over microbatches."""
    moe = MoEConfig(num_experts=8, scores="sigmoid", selection_bias=True, bias_update_rate=0.02)
    assert ModelConfig(moe=moe).bias_update_rate == 0.02
    assert ComputeConfig().dtype == "float32"
    logits = jax.random.normal(jax.random.key(0), (4, 64, 8)) + jnp.array([2.0, 1.0] + [0.0] * 6)

    def loss(params, batch, key):
        bias = params["bias"]
        routing = route(batch["logits"], bias, moe, None, TRAIN, drops=True)
        load = routing.aux["expert_load_max"]
        sums = {"load": (load.total, load.weight)}
        return Loss(routing.weights.sum(), jnp.float32(1), sums)

    axes = {"bias": ("selection",), "scale": (None,)}
    config = replace(AdamWConfig(schedule=FLAT), clip_norm=1.0)
    optimizer = make_optimizer(config, 100, axes, bias_update_rate=moe.bias_update_rate)
    params = {"bias": jnp.zeros(8), "scale": jnp.ones(1)}
    state = TrainState(jnp.int32(0), params, optimizer.init(params))
    step = make_train_step(loss, optimizer, seed=0, clip_norm=1.0, accumulate=2)
    batch = {"logits": logits}
    loads = []
    for _ in range(40):
        state, metrics = step(state, batch)
        total, weight = metrics.sums["load"]
        loads.append(float(total / weight))
        assert metrics.gradient_norm == 0
    assert loads[0] > 2.5
    assert loads[-1] < 1.3
