"""An update far above the recent losses or gradient norms is skipped; exactly so after a resume."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import tiny
from llmjax.optimizers.optimizer import Optimizer
from llmjax.optimizers.spikes import SpikesConfig, skip_spikes, spikes_problems
from llmjax.state import make_state
from llmjax.step import make_train_step

CONFIG = SpikesConfig(factor=6.0, recent=8)


def admitted(losses, norms=None, config=CONFIG):
    """Which of a series of steps are applied."""
    optimizer = skip_spikes(replace(tiny.optimizer(), init=lambda params: ()), config)
    state, result = optimizer.init({}), []
    admit = jax.jit(optimizer.admit)
    for loss, norm in zip(losses, norms or [1.0, 1.1] * len(losses), strict=False):
        accepted, state = admit(state, jnp.float32(loss), jnp.float32(norm))
        result.append(bool(accepted))
    return result


def by_the_rule(losses, factor, recent):
    """The same in NumPy, over all values at once."""
    result = []
    for index, loss in enumerate(losses):
        before = np.array(losses[max(0, index - recent) : index])
        enough = index >= recent // 2
        result.append(not enough or loss <= before.mean() + factor * before.std(ddof=1))
    return result


def test_the_rule_is_mean_and_deviation_of_the_recent_ones():
    generator = np.random.default_rng(0)
    losses = list(3 + generator.standard_t(2, 60) * 0.1)
    found = admitted(losses, [1.0] * 60, SpikesConfig(factor=1.0, recent=8))
    assert found == by_the_rule(losses, 1.0, 8)
    assert 5 < found.count(False) < 30


def test_a_spike_of_the_loss_or_of_the_gradient_is_skipped():
    calm = [3.0, 3.1, 2.9, 3.0, 3.1, 2.9]
    assert admitted([*calm, 9.0, 3.0]) == [True] * 6 + [False, True]
    assert admitted([3.0] * 8, [*calm, 9.0, 3.0]) == [True] * 6 + [False, True]
    assert admitted([*calm, 0.1]) == [True] * 7, "a fall is none"


def test_the_first_steps_are_never_skipped_and_a_lasting_change_is_accepted():
    assert admitted([3.0, 3.1, 2.9, 50.0]) == [True] * 4
    later = admitted([3.0, 3.1] * 4 + [9.0] * 8)[8:]
    assert not later[0]
    assert later[-1]


def test_values_that_are_not_finite_are_skipped_and_not_remembered():
    calm = [3.0, 3.1, 2.9, 3.0]
    assert admitted([*calm, np.nan, np.inf, 3.1, 9.0]) == [True] * 4 + [False] * 2 + [True, False]


def test_off_is_the_optimizer_itself():
    optimizer = tiny.optimizer()
    assert skip_spikes(optimizer, SpikesConfig()) is optimizer
    assert isinstance(skip_spikes(optimizer, SpikesConfig(factor=1.0)), Optimizer)
    assert spikes_problems(SpikesConfig(-1.0, 2, max_roll_backs=0)) == [
        "spikes.factor: -1.0 is negative",
        "spikes.recent: 2 is less than 4",
        "spikes.max_roll_backs: 0 is not positive",
    ]
    assert spikes_problems(SpikesConfig(action="roll_back")) == [
        "spikes.action: roll_back needs spikes.factor, which says what a spike is; 6 is usual"
    ]


def test_a_skipped_step_changes_only_what_is_remembered():
    mesh = tiny.one_device()

    def loss(params, batch, key):
        plain = tiny.loss(params, batch, key)
        scale = jnp.where(batch["inputs"][0, 0] == 99, 1e3, 1.0)
        return plain._replace(objective=plain.objective * scale)

    optimizer = skip_spikes(tiny.optimizer(), SpikesConfig(factor=6.0, recent=8))
    step = make_train_step(loss, optimizer, seed=0, clip_norm=1.0)
    state = make_state(tiny.MODEL, optimizer, 0, mesh)
    bad = tiny.batch(9, mesh)
    inputs = np.array(bad["inputs"])
    inputs[0, 0] = 99
    bad["inputs"] = jax.device_put(inputs, bad["inputs"].sharding)
    with jax.set_mesh(mesh):
        for index in range(5):
            state, metrics = step(state, tiny.batch(index, mesh))
            assert metrics.skipped == 0
        before = jax.device_get(state)
        state, metrics = step(state, bad)
    assert metrics.skipped == 1
    assert tiny.equal(
        (state.params, state.opt_state.inner), (before.params, before.opt_state.inner)
    )
    assert (int(state.step), int(state.opt_state.recent.seen)) == (6, 6)
