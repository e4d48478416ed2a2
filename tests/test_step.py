"""The update: the same over any devices or microbatches; skipped if it is not finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from llmjax.losses.loss import with_bits_per_byte
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import SgdConfig
from llmjax.optimizers.trainable import TrainByPattern, lr_multipliers
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.state import split, state_of
from llmjax.step import make_train_step

MESHES = {
    "data=8": MeshConfig(data=8, fsdp=1),
    "fsdp=8": MeshConfig(fsdp=8),
    "tensor=2 x fsdp=4": MeshConfig(tensor=2, fsdp=4),
    "sequence=2 x fsdp=4": MeshConfig(sequence=2, fsdp=4),
}


def losses(mesh, steps=20, **options) -> np.ndarray:
    state, step = tiny.start(mesh, **options)
    values = []
    with jax.set_mesh(mesh):
        for index in range(steps):
            state, metrics = step(state, tiny.batch(index, mesh))
            values.append(float(metrics.objective))
    return np.asarray(values)


@pytest.fixture(scope="module")
def single() -> np.ndarray:
    return losses(tiny.one_device())


@pytest.mark.parametrize("config", MESHES.values(), ids=MESHES.keys())
def test_twenty_steps_on_any_mesh_give_the_losses_of_one_device(single, config):
    sharded = losses(make_mesh(config))
    assert single[-1] < single[0]
    np.testing.assert_allclose(sharded, single, rtol=0, atol=1e-5)


def test_accumulating_parts_is_the_whole_batch(single):
    in_parts = losses(tiny.one_device(), steps=6, accumulate=4)
    np.testing.assert_allclose(in_parts, single[:6], rtol=0, atol=2e-6)


def test_accumulating_on_a_mesh_is_the_whole_batch(single):
    in_parts = losses(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), steps=6, accumulate=2)
    np.testing.assert_allclose(in_parts, single[:6], rtol=0, atol=1e-5)


def test_metrics_are_sums_over_the_batch_and_of_the_gradient():
    mesh = tiny.one_device()
    sizes = jnp.arange(128, dtype=jnp.int32) % 5

    def loss(params, batch, key):
        plain = tiny.loss(params, batch, key)
        return with_bits_per_byte(plain, batch["targets"], batch["weights"], sizes)

    state, step = tiny.start(mesh, loss_function=loss)
    batch = tiny.batch(0, mesh)
    weight = float(batch["weights"].sum())
    with jax.set_mesh(mesh):
        mean = lambda params: tiny.loss(params, batch, None).objective / weight  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(mean))(state.params)
        norm = math.sqrt(sum(np.square(leaf).sum() for leaf in tiny.numbers(gradient)))
        expected = jax.jit(loss)(state.params, batch, None)
        _, metrics = step(state, batch)
    assert metrics.sums.keys() == {"loss", "accuracy", "bits_per_byte"}
    for name, total in metrics.sums.items():
        np.testing.assert_allclose(total, expected.sums[name], rtol=1e-6)
    assert metrics.sums["loss"].weight == weight
    bits = metrics.sums["loss"].total / math.log(2)
    assert metrics.sums["bits_per_byte"].total == pytest.approx(float(bits))
    assert metrics.objective == pytest.approx(float(value), rel=1e-6)
    assert metrics.gradient_norm == pytest.approx(norm, rel=1e-5)
    real = np.asarray(batch["targets"])[np.asarray(batch["weights"]) > 0]
    assert metrics.sums["bits_per_byte"].weight == (real % 5).sum()
    leaves = jax.tree.leaves(metrics)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in leaves)


def test_a_step_that_is_not_finite_changes_nothing_but_the_step():
    mesh = tiny.one_device()

    def loss(params, batch, key):
        broken = jnp.where(batch["inputs"][0, 0] == 99, jnp.nan, 1.0)
        plain = tiny.loss(params, batch, key)
        return plain._replace(objective=plain.objective * broken)

    state, step = tiny.start(mesh, loss_function=loss)
    bad = tiny.batch(1, mesh)
    inputs = np.array(bad["inputs"])
    inputs[0, 0] = 99
    bad["inputs"] = jax.device_put(inputs, bad["inputs"].sharding)
    with jax.set_mesh(mesh):
        state, metrics = step(state, tiny.batch(0, mesh))
        assert metrics.skipped == 0
        before = jax.device_get(state)
        state, metrics = step(state, bad)
        assert metrics.skipped == 1
        assert tiny.equal((state.params, state.opt_state), (before.params, before.opt_state))
        assert state.step == 2
        _, metrics = step(state, tiny.batch(2, mesh))
        assert metrics.skipped == 0
        assert np.isfinite(metrics.objective)


def test_long_gradients_are_clipped_to_the_limit():
    mesh = tiny.one_device()
    flat = ScheduleConfig("constant", warmup_steps=0)
    config = SgdConfig(learning_rate=1.0, schedule=flat, momentum=0.0)

    def loss(params, batch, key):
        sums = tiny.loss(params, batch, key)
        return sums._replace(objective=1e3 * sums.objective)

    state, step = tiny.start(mesh, config=config, loss_function=loss)
    before = jax.device_get(state.params)
    with jax.set_mesh(mesh):
        state, metrics = step(state, tiny.batch(0, mesh))
    assert metrics.gradient_norm > 10
    pairs = zip(tiny.numbers(state.params), tiny.numbers(before), strict=True)
    moved = math.sqrt(sum(np.square(new - old).sum() for new, old in pairs))
    assert moved == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("config", [MeshConfig(), MESHES["tensor=2 x fsdp=4"]], ids=["1", "8"])
def test_frozen_layers_of_a_stack_are_not_in_the_norm(config):
    mesh = tiny.one_device() if config == MeshConfig() else make_mesh(config)
    axes, tune = tiny.MODEL.logical_axes(), TrainByPattern(("decoder.layers.1.*",))
    rates = lr_multipliers(tune, tiny.MODEL.config, tiny.MODEL.abstract_params())
    trainable = jax.tree.map(lambda factor: bool(np.any(factor)), rates)
    flat = ScheduleConfig("constant", warmup_steps=0)
    sgd = SgdConfig(learning_rate=1.0, schedule=flat, momentum=0.0)
    optimizer = make_optimizer(sgd, 20, split(axes, trainable)[0], split(rates, trainable)[0])
    step = make_train_step(tiny.loss, optimizer, seed=0, clip_norm=0.01)
    batch = tiny.batch(0, mesh)
    with jax.set_mesh(mesh):
        params = jax.jit(tiny.MODEL.init)(jax.random.key(0))
        gradient = jax.jit(jax.grad(lambda p: tiny.loss(p, batch, None).objective))(params)
        second = [g[1] for g in tiny.numbers(gradient["decoder"]["layers"])]
        norm = math.sqrt(sum(np.square(g).sum() for g in second)) / float(batch["weights"].sum())
        trained, frozen = split(params, trainable)
        before = [np.array(leaf) for leaf in jax.tree.leaves(trained)]
        state, metrics = step(state_of(optimizer, trained, mesh), batch, frozen)
    assert metrics.gradient_norm == pytest.approx(norm, rel=1e-4)
    moved = [new - old for new, old in zip(tiny.numbers(state.params), before, strict=True)]
    assert all(not np.any(change[0]) for change in moved)
    assert math.sqrt(sum(np.square(m).sum() for m in moved)) == pytest.approx(0.01, rel=1e-3)


def test_muon_trains_on_a_mesh_as_on_one_device():
    config = MuonConfig(learning_rate=0.01, schedule=ScheduleConfig(warmup_steps=2))
    single = losses(tiny.one_device(), steps=5, config=config)
    sharded = losses(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), steps=5, config=config)
    np.testing.assert_allclose(sharded, single, rtol=0, atol=1e-4)
