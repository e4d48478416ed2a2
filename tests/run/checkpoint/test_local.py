"""The newest step that the processes can supply together comes back as it was."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.checkpoint.local import LocalCheckpoints, run_id
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.shards import Shards
from llmjax.state import abstract_state, make_state

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def progress(step: int) -> TrainProgress:
    return TrainProgress(step, seed=0, batch_size=16, length=16, corpus="c", seconds=0.1 * step)


@pytest.fixture(scope="module")
def state():
    state = make_state(tiny.MODEL, tiny.optimizer(), 0, make_mesh(MESH))
    return dataclasses.replace(state, params=jax.tree.map(lambda x: -0.0 * x, state.params))


def save(folder, state, steps) -> None:
    local = LocalCheckpoints(str(folder), 7)
    for step in steps:
        local.save(dataclasses.replace(state, step=jnp.full_like(state.step, step)), progress(step))
    local.close()


def restore(folder, newer_than=-1, mesh=MESH):
    abstract = abstract_state(tiny.MODEL, tiny.optimizer(), make_mesh(mesh))
    local = LocalCheckpoints(str(folder), 7)
    restored = local.restore(abstract, newer_than)
    local.close()
    return restored


def test_the_newest_step_comes_back_bit_for_bit_and_two_are_kept(state, tmp_path):
    save(tmp_path, state, [2, 4, 6])
    restored, where = restore(tmp_path)
    assert where == progress(6)
    assert restored.step == 6
    for leaf, other in zip(
        jax.tree.leaves(restored.params), jax.tree.leaves(state.params), strict=True
    ):
        assert leaf.sharding == other.sharding
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()  # -0.0 is not 0.0
    names = {path.name for path in (tmp_path / "00000007" / "process_0").iterdir()}
    assert names == {"4.json", "4.safetensors", "6.json", "6.safetensors"}


def test_a_damaged_step_gives_way_to_the_one_before(state, tmp_path, caplog):
    save(tmp_path, state, [2, 4])
    path = tmp_path / "00000007" / "process_0" / "4.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert restore(tmp_path)[1].step == 2
    assert "4.json is damaged" in caplog.text


def test_the_run_folders_checkpoint_serves_if_it_is_as_new(state, tmp_path):
    save(tmp_path, state, [2, 4])
    assert restore(tmp_path, newer_than=4) is None
    assert restore(tmp_path, newer_than=3)[1].step == 4


def test_another_mesh_does_not_read_the_shards_of_this_one(state, tmp_path):
    save(tmp_path, state, [2])
    assert restore(tmp_path, mesh=MeshConfig(data=4, fsdp=2)) is None


def test_a_run_that_starts_over_has_another_id(tmp_path):
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    (tmp_path / "local_id").unlink()
    assert run_id(tmp_path) != first
    (tmp_path / "local_id").write_text("?")
    with pytest.raises(UserError, match="cannot be used"):
        run_id(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        LocalCheckpoints(str(tmp_path / "file"), 7)


def leaf(*halves: int) -> SimpleNamespace:
    """A leaf of which device i, in process i, holds half `halves[i]`."""
    pairs = [
        (SimpleNamespace(process_index=process), (slice(2 * half, 2 * half + 2),))
        for process, half in enumerate(halves)
    ]
    indices = SimpleNamespace(items=lambda: pairs)
    sharding = SimpleNamespace(devices_indices_map=lambda shape: indices)
    return SimpleNamespace(shape=(4,), dtype=np.float32, sharding=sharding)


def test_replicas_make_up_for_a_lost_disk_and_nothing_else_does():
    replicated = Shards({"w": leaf(0, 1, 0, 1)})
    assert replicated.is_complete([0, 1])
    assert replicated.is_complete([1, 2])
    assert not replicated.is_complete([0, 2])
    lost = [(source, piece.name) for source, piece in replicated.lost([1, 2])]
    assert lost == [(2, "['w'] [0:2]"), (1, "['w'] [2:4]")]
    assert list(replicated.lost(range(4))) == []
    assert not Shards({"w": leaf(0, 1)}).is_complete([0])
    assert replicated.fingerprint != Shards({"w": leaf(0, 1, 1, 0)}).fingerprint
