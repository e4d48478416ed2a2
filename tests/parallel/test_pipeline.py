"""A pipeline computes what its layers do one after another, whatever its schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.parallel import mesh, pipeline
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.parallel.pipeline import GROUP, Schedule

SCHEDULES = [Schedule(2, 2), Schedule(2, 6, 3), Schedule(4, 4, 2), Schedule(4, 8, 6)]
KEEP = jax.checkpoint_policies.save_anything_except_these_names(GROUP)
SHARED = np.float32(0.1)


def group(layers, x, rows, shared, slot):
    """Two layers of a toy model, and sums that say what was computed."""
    for layer in layers:
        x = mesh.reshard(jnp.sin(x * layer + shared + rows[:, None]), "batch", None)
    sums = {"slots": 1, "groups": slot.group, "microbatches": slot.microbatch, "rows": rows.sum()}
    return x, {name: jnp.float32(value) for name, value in sums.items()}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_layers_in_order_and_sums_of_real_microbatches(schedule):
    stages, count, rounds = schedule
    groups = stages * rounds
    draw = np.random.default_rng(0)
    layers = draw.uniform(0.5, 1.5, (2 * groups, 3)).astype(np.float32)
    x = draw.standard_normal((count * 8 // stages, 3)).astype(np.float32)
    rows = np.arange(len(x), dtype=np.float32) / len(x)

    def loss(layers, x, shared, run):
        y, sums = run(layers, x, shared)
        return jnp.cos(y).sum(), (y, sums)

    def one_by_one(layers, x, shared):
        for layer in layers:
            x = jnp.sin(x * layer + shared + rows[:, None])
        return x, None

    def piped(layers, x, shared):
        tags = mesh.reshard(jnp.asarray(rows), "batch")
        return pipeline.run(group, layers, x, tags, shared, schedule, KEEP)

    differentiate = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
    expected, (y, _) = differentiate(layers, x, SHARED, one_by_one)
    devices = make_mesh(MeshConfig(stage=stages))
    with jax.set_mesh(devices):
        spread = mesh.place(layers, devices, "layers", None), mesh.place(x, devices, "batch", None)
        gradients, (found, sums) = differentiate(*spread, SHARED, piped)
        assert gradients[0].sharding.spec == spread[0].sharding.spec
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        jax.device_get((found, gradients)),
        jax.device_get((y, expected)),
    )
    assert sums == {
        "slots": count * groups,
        "groups": count * sum(range(groups)),
        "microbatches": groups * sum(range(count)),
        "rows": pytest.approx(groups * rows.sum(), rel=1e-6),
    }


def test_every_group_of_layers_reaches_its_stage_once():
    for stages in range(1, 9):
        for rounds in range(1, 13):
            arrived = {}
            for sent, targets, kept in pipeline._exchanges(stages, rounds):
                assert sorted(targets) == list(range(stages)), "each stage sends one, and gets one"
                for stage, target in enumerate(targets):
                    arrived[target, kept[target]] = stage * rounds + sent[stage]
            assert arrived == {(g % stages, g // stages): g for g in range(stages * rounds)}


def test_the_bubble():
    """The share of the iterations of a stage that are not for a microbatch."""
    schedule = Schedule(4, 8, 2)
    assert schedule.iterations == 19
    assert schedule.bubble == 3 / 19
    assert schedule.bubble == schedule.waiting / (1 + schedule.waiting)
