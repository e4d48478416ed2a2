"""Checkpoints: restored bit for bit on any mesh, never half there, damage noticed."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.model.moe_config import MoEConfig
from llmjax.optimizers.muon import MuonConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdafactorConfig, SgdConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, mesh_of
from llmjax.parallel.topology import Factors
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.files import steps, steps_to_delete
from llmjax.run.checkpoint.progress import TrainProgress, read_progress
from llmjax.run.checkpoint.reading import restore_params
from llmjax.state import abstract_state, make_state

CONFIG = CheckpointConfig(keep_last=2, keep_best=1)


def position(step: int, heldout_loss: float | None = None) -> TrainProgress:
    return TrainProgress(
        step, seed=0, batch_size=16, length=16, corpus="c", heldout_loss=heldout_loss
    )


@pytest.fixture(scope="module")
def state():
    return make_state(tiny.MODEL, tiny.optimizer(), 0, make_mesh(MeshConfig(fsdp=4, tensor=2)))


def at_step(state, step: int):
    """The state, with parameters that say which step it is."""
    return dataclasses.replace(
        state,
        step=jnp.full_like(state.step, step),
        params=jax.tree.map(lambda x: x + np.float32(step), state.params),
    )


def save(folder, state, at_steps, losses=()):
    losses = dict(losses)
    with Checkpoints(folder, CONFIG) as checkpoints:
        for step in at_steps:
            checkpoints.save(at_step(state, step), position(step, losses.get(step)))


def restore(folder, mesh=None):
    target = abstract_state(tiny.MODEL, tiny.optimizer(), mesh or make_mesh(MeshConfig()))
    with Checkpoints(folder, CONFIG) as checkpoints:
        return checkpoints.restore(target)


def damage(folder, step: int, how: str = "flip") -> None:
    files = (folder / str(step) / "params").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("devices", [8, 2, 1])
def test_restores_bit_for_bit_on_another_mesh(state, tmp_path, devices):
    save(tmp_path, state, [7])
    mesh = make_mesh(MeshConfig(tensor=min(2, devices)), jax.devices()[:devices])
    restored, where = restore(tmp_path, mesh)
    assert where == position(7)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert tiny.equal(restored, at_step(state, 7))
    assert {leaf.sharding.mesh.size for leaf in jax.tree.leaves(restored)} == {devices}


def test_restores_bit_for_bit_where_an_axis_is_split(state, tmp_path):
    """Onto a mesh with fsdp through a torus, and from there back."""
    save(tmp_path / "whole", state, [7])
    devices = np.array(jax.devices()[:8]).reshape(1, 1, 8, 1, 1, 1)
    split, _ = restore(tmp_path / "whole", mesh_of(devices, {"fsdp": Factors(2, (2, 1, 2))}))
    assert tiny.equal(split, at_step(state, 7))
    with Checkpoints(tmp_path / "split", CONFIG) as checkpoints:
        checkpoints.save(split, position(7))
    assert tiny.equal(restore(tmp_path / "split")[0], split)


def test_restores_bit_for_bit_where_other_devices_have_the_experts(tmp_path):
    moe = MoEConfig(num_experts=8, expert_width=8, dense_layers=(0,), expert_bias=True)
    model = Model(resolve(replace(tiny.CONFIG, moe=moe), 128))
    optimizer = make_optimizer(tiny.OPTIMIZER, 20, model.logical_axes())
    sizes = MeshConfig(expert=4, fsdp=2), MeshConfig(expert=2, tensor=2, fsdp=2), MeshConfig()
    first, *others = map(make_mesh, sizes)
    state = make_state(model, optimizer, 0, first)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(state, position(7))
        for mesh in others:
            restored, _ = checkpoints.restore(abstract_state(model, optimizer, mesh))
            assert tiny.equal(restored, state)


@pytest.mark.parametrize(
    "config", [AdafactorConfig(min_factored_size=8), MuonConfig(), SgdConfig()]
)
def test_every_optimizer_state_comes_back(tmp_path, config):
    mesh = tiny.one_device()
    optimizer = tiny.optimizer(config)
    state = make_state(tiny.MODEL, optimizer, 0, mesh)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(state, position(1))
        checkpoints.wait()
        restored, _ = checkpoints.restore(abstract_state(tiny.MODEL, optimizer, mesh))
    assert tiny.equal(restored, state)


def test_a_state_that_is_used_up_while_it_is_written_is_saved_as_it_was(tmp_path):
    mesh = tiny.one_device()
    state, step = tiny.start(mesh)
    with Checkpoints(tmp_path, CONFIG) as checkpoints, jax.set_mesh(mesh):
        state, _ = step(state, tiny.batch(0, mesh))
        before = jax.tree.map(np.array, state)
        checkpoints.save(state, position(1))
        for index in range(5):
            state, _ = step(state, tiny.batch(index, mesh))
        checkpoints.wait()
        restored, _ = checkpoints.restore(abstract_state(tiny.MODEL, tiny.optimizer(), mesh))
    assert tiny.equal(restored, before)
    assert not tiny.equal(restored, state)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new") is None


def test_keeps_the_last_and_the_best():
    losses = {1: 3.0, 2: 1.0, 3: None, 4: 2.0, 5: 2.5}
    for best, kept in [(0, {4, 5}), (1, {2, 4, 5}), (3, {2, 4, 5}), (9, {1, 2, 4, 5})]:
        config = CheckpointConfig(keep_last=2, keep_best=best)
        assert set(losses) - set(steps_to_delete(sorted(losses), config, losses.get)) == kept


def test_superfluous_checkpoints_are_deleted(state, tmp_path):
    save(tmp_path, state, [1, 2, 3, 4], {1: 1.0, 3: 2.0})
    assert steps(tmp_path) == [1, 3, 4]
    assert {path.name for path in tmp_path.iterdir()} == {"1", "3", "4"}
    assert read_progress(tmp_path, 1).heldout_loss == 1.0


def test_what_is_not_finite_is_worse_than_anything_and_never_the_best():
    first = position(1).update_best(math.nan)
    assert (first.best, first.worse) == (None, 1)
    good = first.update_best(2.0)
    assert (good.best, good.worse) == (2.0, 0)
    for cost in (math.nan, math.inf, -math.inf, 3.0):
        after = good.update_best(cost)
        assert (after.best, after.worse) == (2.0, 1)
    # As a version that took it for the best has left it.
    assert dataclasses.replace(position(1), best=math.nan, worse=3).update_best(
        2.0
    ) == dataclasses.replace(position(1), best=2.0)


@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(state, tmp_path, how, caplog):
    save(tmp_path, state, [1, 2])
    damage(tmp_path, 2, how)
    restored, where = restore(tmp_path)
    assert where.step == 1
    assert restored.step == 1
    assert "checkpoint 2 is damaged" in caplog.text
    save(tmp_path, state, [2])  # the damaged one does not stand in the way
    assert restore(tmp_path)[1].step == 2


def test_nothing_starts_from_scratch_when_every_checkpoint_is_damaged(state, tmp_path):
    save(tmp_path, state, [1, 2])
    damage(tmp_path, 1)
    (tmp_path / "2" / "checksums.json").unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="no complete checkpoint among 1, 2"):
            restore(tmp_path)


def test_parameters_alone_in_another_type_and_from_a_chosen_step(state, tmp_path):
    save(tmp_path, state, [1, 2])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tiny.MODEL.abstract_params()
    )
    for requested, step in [(None, 2), (1, 1)]:
        params, restored = restore_params(tmp_path, target, requested)
        assert restored == step
        expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16), at_step(state, step).params)
        assert tiny.equal(params, expected)


def test_a_step_that_is_not_there_or_damaged_is_refused_and_the_others_are_named(state, tmp_path):
    save(tmp_path, state, [1, 2])
    target = tiny.MODEL.abstract_params()
    with pytest.raises(UserError, match="no checkpoint of step 9; it has 1, 2"):
        restore_params(tmp_path, target, 9)
    damage(tmp_path, 2)
    with pytest.raises(UserError, match=r"damaged.*others here: 1"):
        restore_params(tmp_path, target, 2)
    assert restore_params(tmp_path, target)[1] == 1
    with pytest.raises(UserError, match="holds no checkpoint"):
        restore_params(tmp_path / "none", target)


def test_another_models_checkpoint_is_refused(state, tmp_path):
    save(tmp_path, state, [1])
    target = {"something": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(UserError, match="belongs to another model"):
        restore_params(tmp_path, target)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints", CONFIG)


def test_a_save_that_fails_leaves_the_earlier_ones_and_no_rest(state, tmp_path, monkeypatch):
    save(tmp_path, state, [1])

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmjax.run.checkpoint.files.write_checksums", full)
    with pytest.raises(UserError, match="No space left on device"):
        save(tmp_path, state, [2])
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert restore(tmp_path)[1].step == 1


def test_a_full_disk_is_foreseen(state, tmp_path, monkeypatch):
    save(tmp_path, state, [1])
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    with pytest.raises(UserError, match=r"No space left on device: \S+ MB are needed, 0.0 MB free"):
        save(tmp_path, state, [2])
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


KILLED = """
import sys, pathlib
sys.path[:0] = [{tests!r}, {tests!r} + "/run"]
import conftest, tiny, test_checkpoint as t
from llmjax.run.checkpoint import files
from llmjax.state import make_state
state = make_state(tiny.MODEL, tiny.optimizer(), 0, tiny.one_device())
folder = pathlib.Path({folder!r})
t.save(folder, state, [1])
print("saved", flush=True)
files.write_checksums = lambda path: __import__("time").sleep(60)
t.save(folder, state, [2])
"""


@pytest.mark.once
def test_a_save_that_is_killed_is_never_seen(tmp_path):
    script = KILLED.format(tests=str(tiny.HERE), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while not any(path.name.startswith("2") for path in tmp_path.iterdir()):
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"1", "2"}
    assert steps(tmp_path) == [1]
    assert restore(tmp_path)[1].step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_checksums_name_every_file_that_holds_data(state, tmp_path):
    save(tmp_path, state, [1])
    named = json.loads((tmp_path / "1" / "checksums.json").read_text())
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file() and path.name not in ("checksums.json", "_CHECKPOINT_METADATA"):
            relative = str(path.relative_to(tmp_path / "1"))
            assert relative in named or path.name == "commit_success.txt"
