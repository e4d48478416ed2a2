"""A step computed twice: a flipped bit is found and named, and nothing else is changed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from llmjax.errors import CORRUPTED, DataCorruption, UserError, exit_code
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.parallel.shard_checksums import shard_checksums
from llmjax.run.config.schema import ReplayConfig
from llmjax.run.folder import Run
from llmjax.run.telemetry.goodput import read_goodput
from llmjax.training import replay
from llmjax.training.replay import Replay
from llmjax.training.train import train

NAMES = ("run", "replayed")
MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def with_flipped_bit(array: jax.Array, device: int, bit: int) -> jax.Array:
    """The array with one bit of its first element changed in the shard of one device."""
    shards = []
    for shard in array.addressable_shards:
        values = np.array(shard.data)
        if shard.device.id == device:
            values.reshape(-1).view(np.uint32)[:1] ^= np.uint32(1 << bit)
        shards.append(jax.device_put(values, shard.device))
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


@pytest.mark.parametrize("bit", [0, 31])
def test_one_flipped_bit_changes_the_checksum_of_its_device_and_array_only(bit):
    mesh = make_mesh(MESH)
    state, _ = tiny.start(mesh)
    leaves = jax.tree.leaves(state)
    with jax.set_mesh(mesh):
        before = np.asarray(jax.jit(shard_checksums)(leaves))
        index = max(range(len(leaves)), key=lambda leaf: leaves[leaf].size)
        leaves[index] = with_flipped_bit(leaves[index], 5, bit)
        after = np.asarray(jax.jit(shard_checksums)(leaves))
    assert before.shape == (8, len(leaves))
    row = [device.id for device in mesh.devices.flat].index(5)
    assert np.argwhere(before != after).tolist() == [[row, index]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8, bool, jnp.int32])
def test_arrays_of_all_types_have_checksums_that_depend_on_order(dtype):
    with jax.set_mesh(tiny.one_device()):
        ordered = shard_checksums([jnp.array([0, 1, 1], dtype)])
        swapped = shard_checksums([jnp.array([1, 0, 1], dtype)])
    assert ordered[0, 0] != swapped[0, 0]


def test_a_replayed_run_is_the_same_bit_for_bit(tmp_path):
    config = runs.config(tmp_path, mesh=MESH, steps=4)
    train(config)
    replayed = replace(config, run_dir=str(tmp_path / "replayed"), replay=ReplayConfig(every=2))
    run = train(replayed)
    assert tiny.equal(runs.params(run.folder), runs.params(tmp_path / "run"))
    first, second = ([line["loss"] for line in runs.metrics(tmp_path / name)] for name in NAMES)
    assert first == second
    assert read_goodput(run.goodput)["seconds"]["replay"] > 0
    assert read_goodput(Run(tmp_path / "run").goodput)["seconds"]["replay"] == 0


@pytest.mark.once
def test_a_difference_ends_the_run_before_it_is_saved(tmp_path, monkeypatch):
    runs.train_on(monkeypatch, 2)
    config = runs.config(tmp_path, replay=ReplayConfig(every=2))
    check = Replay.check

    def flipped(self, step, expected, result, resumes):
        state, metrics = result
        if step == 6:
            leaves, structure = jax.tree.flatten(state.params)
            leaves[0] = with_flipped_bit(leaves[0], 1, 7)
            state = replace(state, params=jax.tree.unflatten(structure, leaves))
        check(self, step, expected, (state, metrics), resumes)

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "check", flipped)
        with pytest.raises(DataCorruption) as caught:
            train(config)
    assert exit_code(caught.value) == CORRUPTED
    message = str(caught.value)
    assert message.startswith("step 6, computed twice from the same state and batch, differs on ")
    assert "device 1 of process 0 (host " in message
    assert "in params." in message
    assert message.endswith("start the same command again to resume from step 4")
    run = Run(tmp_path / "run")
    assert run.steps() == [2, 4], "what is wrong is not saved"


def test_where_all_devices_differ_none_is_blamed():
    mesh = make_mesh(MESH)
    where = replay._where(mesh, np.ones(8, bool), ["a"])
    assert where.startswith("on all 8 devices (")


def test_a_gpu_must_be_deterministic(monkeypatch):
    class Device:
        platform = "gpu"

    class Mesh:
        devices = np.array([Device()])

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.raises(UserError, match="set XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        Replay(5, Mesh())
    Replay(0, Mesh())
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    Replay(5, Mesh())
