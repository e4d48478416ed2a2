"""Optimizers: each descends, sharded or not; decay, matrices and schedules."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.muon import MuonConfig, newton_schulz
from llmjax.optimizers.optimizer import learning_rate, make_optimizer
from llmjax.optimizers.standard import AdafactorConfig, AdamWConfig, LionConfig, SgdConfig
from llmjax.parallel.mesh import MeshConfig, logical_spec, make_mesh, named_sharding

AXES = {
    "embedding": ("vocab", "embed"),
    "query": ("layers", "embed", "heads", "head_dim"),
    "out": ("layers", "heads", "head_dim", "embed"),
    "query_bias": ("layers", "heads", "head_dim"),
    "up": ("layers", "embed", "mlp"),
    "norm": ("layers", None),
}
SHAPES = {
    "embedding": (16, 8),
    "query": (3, 8, 2, 4),
    "out": (3, 2, 4, 8),
    "query_bias": (3, 2, 4),
    "up": (3, 8, 32),
    "norm": (3, 8),
}
FLAT = ScheduleConfig("constant", warmup_steps=0)
CONFIGS = [
    AdamWConfig(learning_rate=0.05, schedule=FLAT),
    AdafactorConfig(learning_rate=0.05, schedule=FLAT, min_factored_size=4, beta1=0.9),
    LionConfig(learning_rate=0.02, schedule=FLAT, weight_decay=0.0),
    MuonConfig(learning_rate=0.2, schedule=FLAT, weight_decay=0.0),
    SgdConfig(learning_rate=0.3, schedule=FLAT),
]


def make_params(seed: int, mesh=None) -> dict:
    generator = np.random.default_rng(seed)
    params = {name: generator.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    if mesh is None:
        return params
    shardings = {name: named_sharding(mesh, *axes) for name, axes in AXES.items()}
    return jax.device_put(params, shardings)


def distance(a, b) -> float:
    return math.sqrt(sum(np.square(np.asarray(a[name]) - b[name]).sum() for name in SHAPES))


def descend(config, mesh=None, steps=10):
    """Parameters after some steps on half the squared distance to a target."""
    optimizer = make_optimizer(config, 100, AXES)

    @jax.jit
    def loop(params, target):
        def body(carry, step):
            params, state = carry
            gradients = jax.tree.map(jnp.subtract, params, target)
            return optimizer.apply(params, gradients, state, step), None

        return jax.lax.scan(body, (params, optimizer.init(params)), jnp.arange(steps))[0][0]

    return loop(make_params(0, mesh), make_params(1, mesh))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_every_optimizer_descends_and_is_the_same_when_sharded(config):
    params, target = descend(config), make_params(1)
    assert distance(params, target) < 0.9 * distance(make_params(0), target)
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    with jax.set_mesh(mesh):
        sharded = descend(config, mesh)
    assert jax.typeof(sharded["query"]).sharding.spec == logical_spec(*AXES["query"])
    for name, value in params.items():
        np.testing.assert_allclose(np.asarray(sharded[name]), value, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_frozen_layers_stay_and_the_others_are_trained_as_without_them(config):
    ones = {name: np.float32(1) for name in SHAPES}
    multipliers = {"up": np.array([0, 1, 0.5], np.float32).reshape(3, 1, 1)}
    optimizer = make_optimizer(config, 10, AXES, ones | multipliers)
    params, gradients = make_params(0), make_params(1)
    masked = optimizer.masked(gradients)
    assert not np.any(masked["up"][0])
    np.testing.assert_array_equal(masked["up"][1:], gradients["up"][1:])
    assert all(masked[name] is gradients[name] for name in SHAPES if name != "up")
    moved, state = jax.jit(optimizer.apply)(params, masked, optimizer.init(params), jnp.int32(0))
    np.testing.assert_array_equal(moved["up"][0], params["up"][0])
    plain = make_optimizer(config, 10, AXES)
    expected, _ = jax.jit(plain.apply)(params, gradients, plain.init(params), jnp.int32(0))
    np.testing.assert_allclose(moved["up"][1], expected["up"][1], rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((moved, state)))


@pytest.mark.parametrize("embeddings", [False, True])
def test_decay_spares_norms_and_biases_and_embeddings_unless_asked(embeddings):
    config = SgdConfig(
        learning_rate=0.5, schedule=FLAT, weight_decay=0.5, decay_embeddings=embeddings
    )
    optimizer, params = make_optimizer(config, 10, AXES), make_params(0)
    zeros = jax.tree.map(np.zeros_like, params)
    decayed, _ = jax.jit(optimizer.apply)(params, zeros, optimizer.init(params), jnp.int32(0))
    for name in SHAPES:
        decays = name in ("query", "out", "up") or (embeddings and name == "embedding")
        np.testing.assert_allclose(
            decayed[name], params[name] * (0.75 if decays else 1.0), rtol=1e-6
        )


def test_state_is_float32_and_sharded_like_its_parameters():
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    with jax.set_mesh(mesh):
        params = make_params(0, mesh)
        for config in CONFIGS:
            state = jax.eval_shape(make_optimizer(config, 10, AXES).init, params)
            shapes = {p.shape: p.sharding.spec for p in params.values() if p.ndim > 2}
            for leaf in jax.tree.leaves(state):
                if leaf.shape in shapes:
                    assert leaf.dtype == jnp.float32
                    assert leaf.sharding.spec == shapes[leaf.shape]


def test_newton_schulz_brings_singular_values_near_one_whatever_the_shape():
    for shape in [(2, 6, 20), (3, 20, 6), (1, 7, 7)]:
        stack = np.random.default_rng(0).standard_normal(shape, np.float32) * 1e-3
        values = np.linalg.svd(jax.jit(newton_schulz, static_argnums=1)(stack, 8), compute_uv=False)
        assert 0.6 < values.min() < values.max() < 1.3


def test_muon_treats_each_layer_as_optax_treats_one_matrix():
    config = MuonConfig(learning_rate=1.0, schedule=FLAT, weight_decay=0.0)
    params = {"up": make_params(0)["up"]}
    optimizer = make_optimizer(config, 10, {"up": AXES["up"]})
    gradients = {"up": make_params(1)["up"]}
    moved, _ = jax.jit(optimizer.apply)(params, gradients, optimizer.init(params), jnp.int32(0))
    reference = optax.contrib.muon(1.0, consistent_rms=0.2)
    for layer in range(3):
        gradient = gradients["up"][layer]
        update, _ = jax.jit(reference.update)(gradient, reference.init(gradient), gradient)
        np.testing.assert_allclose(moved["up"][layer] - params["up"][layer], update, atol=2e-5)


def test_adafactor_keeps_rows_and_columns_not_matrices():
    params = make_params(0)
    sizes = {}
    for factored in (4, 1000):
        config = AdafactorConfig(min_factored_size=factored)
        state = jax.eval_shape(make_optimizer(config, 10, AXES).init, params)
        sizes[factored] = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes[4] < sizes[1000] / 2


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear", "wsd"])
def test_schedules_rise_to_the_peak_and_end_at_the_final_fraction(shape):
    schedule = ScheduleConfig(shape, warmup_steps=10, final_fraction=0.2, decay_fraction=0.3)
    rate = learning_rate(AdamWConfig(learning_rate=2.0, schedule=schedule), 100)
    values = np.asarray(jax.jit(jax.vmap(rate))(np.arange(101)))
    assert values[0] == pytest.approx(2.0 / 11)
    assert values[10] == pytest.approx(2.0)
    assert values.max() == pytest.approx(2.0)
    assert (np.diff(values[:11]) > 0).all()
    assert (np.diff(values[10:]) <= 1e-6).all()
    assert values[100] == pytest.approx(2.0 if shape == "constant" else 0.4)
    if shape == "wsd":
        assert values[70] == pytest.approx(2.0)
        assert values[85] == pytest.approx(1.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": math.nan}, "learning_rate: nan is not a finite"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0 must be positive"),
        ({"beta2": 1.0}, "beta2: 1.0 must be at least 0 and below 1"),
        ({"clip_norm": 0.0}, "clip_norm: 0.0 must be positive"),
        ({"accumulate": 0}, "accumulate: 0 is too small"),
        ({"weight_decay": math.inf}, "weight_decay: inf is not"),
        ({"schedule": ScheduleConfig(warmup_steps=50)}, "warmup_steps: 50 must lie in 0 to 49"),
        ({"schedule": ScheduleConfig("wsd", 20, decay_fraction=0.9)}, "more than all 50 steps"),
        ({"schedule": ScheduleConfig("wsd", 0, decay_fraction=0.0)}, "is no step"),
        ({"schedule": ScheduleConfig(warmup_steps=0, final_fraction=2.0)}, "final_fraction: 2.0"),
    ],
)
def test_bad_values_are_named(change, message):
    good = AdamWConfig(schedule=ScheduleConfig(warmup_steps=5))
    assert good.problems(50) == []
    assert any(message in line for line in dataclasses.replace(good, **change).problems(50))
