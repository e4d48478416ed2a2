"""The newest step that the processes can supply together comes back as it was."""

import dataclasses
import json
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.checkpoint import local_files
from llmjax.run.checkpoint.local import Key, LocalCheckpoints, _choose, run_id
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
    local = LocalCheckpoints(str(folder), 7, folder / "run")
    for step in steps:
        local.save(dataclasses.replace(state, step=jnp.full_like(state.step, step)), progress(step))
    local.close()


def restore(folder, newer_than=-1, mesh=MESH):
    abstract = abstract_state(tiny.MODEL, tiny.optimizer(), make_mesh(mesh))
    local = LocalCheckpoints(str(folder), 7, folder / "run")
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
        LocalCheckpoints(str(tmp_path / "file"), 7, tmp_path)


def test_progress_is_updated_in_place(state, tmp_path):
    local = LocalCheckpoints(str(tmp_path), 7, tmp_path)
    local.save(state, progress(2))
    rolled_back = dataclasses.replace(progress(2), left_out=((2, 5),))
    local.complete(rolled_back)
    local.close()
    assert restore(tmp_path)[1] == rolled_back


def test_a_full_disk_is_noticed_before_a_save(state, tmp_path, monkeypatch):
    other = tmp_path / "00000008" / "process_0"
    other.mkdir(parents=True)
    (other / "2.safetensors").write_bytes(bytes(100_000))
    local = LocalCheckpoints(str(tmp_path), 7, tmp_path)
    shards = Shards(state)
    assert shards.local_bytes == sum(piece.nbytes for piece in shards.copy_local().values())
    monkeypatch.setattr(Shards, "copy_local", lambda self: pytest.fail("copied before"))
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(local_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"1 MB are needed, 0\.0 MB free; free some .*0\.1 MB of 1"):
        local.save(state, progress(2))
    local.close()
    assert not list(local.folder.iterdir())


def test_only_an_earlier_run_of_the_same_folder_that_is_a_day_old_is_removed(tmp_path):
    old = [("00000001", "a/run", 2.0), ("00000002", "a/run", 0.5), ("00000003", "b/run", 9.0)]
    for number, run, days in old:
        file = tmp_path / number / "run.json"
        file.parent.mkdir()
        file.write_text(json.dumps({"folder": str(tmp_path / run)}))
        os.utime(file, (file.stat().st_mtime - days * local_files.DAY,) * 2)
    (tmp_path / "else").mkdir()
    LocalCheckpoints(str(tmp_path), 7, tmp_path / "a" / "run").close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["00000002", "00000003", "00000007", "else"]


def test_parts_of_another_process_are_removed_once_they_are_older(state, tmp_path):
    save(tmp_path, state, [2])
    run = tmp_path / "00000007"
    (run / "process_0").rename(run / "process_5")  # as if this machine had been number 5
    save(tmp_path, state, [4, 6])
    assert list((run / "process_5").iterdir()) == []


def test_each_part_is_read_where_it_lies():
    shards = Shards({"w": leaf(0, 1)})
    old, new = 100, 200
    swapped = [{Key(4, old, 1)}, {Key(4, old, 0)}]
    assert _choose(swapped, shards) == {Key(4, old, 1): 0, Key(4, old, 0): 1}
    shared = [{Key(4, old, 0), Key(4, old, 1)}] * 2
    assert _choose(shared, shards) == {Key(4, old, 0): 0, Key(4, old, 1): 1}
    mixed = [{Key(2, old, 0), Key(4, old, 0)}, {Key(2, old, 1), Key(4, new, 1)}]
    assert _choose(mixed, shards) == {Key(2, old, 0): 0, Key(2, old, 1): 1}
    assert _choose([{Key(4, old, 0)}, set()], shards) is None


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
    lost = [(source, piece.name) for source, piece in replicated.lost({1: 1, 2: 2})]
    assert lost == [(2, "['w'] [0:2]"), (1, "['w'] [2:4]")]
    assert list(replicated.lost({process: process for process in range(4)})) == []
    swapped = [(source, piece.name) for source, piece in replicated.lost({0: 0, 1: 2})]
    assert swapped == [(0, "['w'] [0:2]"), (2, "['w'] [2:4]")]
    assert not Shards({"w": leaf(0, 1)}).is_complete([0])
    assert replicated.fingerprint != Shards({"w": leaf(0, 1, 1, 0)}).fingerprint
