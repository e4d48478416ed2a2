"""Two processes resume from their local disks, also when one of these is lost."""

import shutil
from dataclasses import replace

import pytest
from test_multiprocess import train_in_processes

import runs
import tiny
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.reading import restore_params
from llmjax.state import abstract_state


def config(folder, mesh: MeshConfig, every: int, local_dir: str | None = None):
    folder.mkdir()
    checkpoint = CheckpointConfig(
        every=every,
        every_minutes=None,
        local_dir=local_dir or str(folder / "local"),
        local_every=2,
    )
    return replace(runs.config(folder, mesh=mesh), checkpoint=checkpoint)


def params(run):
    abstract = abstract_state(runs.MODEL, tiny.optimizer(), tiny.one_device()).params
    return restore_params(run / "checkpoints", abstract, 8)[0]


@pytest.mark.once
def test_a_lost_disk_is_restored_from_replicas_or_else_the_run_folder_serves(tmp_path):
    """Data-parallel processes hold replicas; fsdp ones hold halves. The disks of one run are those
    of processes that change places."""
    replicas = config(tmp_path / "replicas", MeshConfig(data=2, fsdp=1), every=0)
    halves = config(tmp_path / "halves", MeshConfig(data=1, fsdp=2), every=4)
    swapped = config(tmp_path / "swapped", MeshConfig(data=1, fsdp=2), every=0, local_dir="~/disk")
    configs = [replicas, halves, swapped]
    train_in_processes(configs, tmp_path, count=2, devices=1)
    undisturbed = {tmp_path / "swapped": params(tmp_path / "swapped" / "run")}
    shutil.rmtree(tmp_path / "swapped" / "run" / "checkpoints" / "8")
    homes = [tmp_path / f"home{index}" for index in (0, 1)]
    for disk, home in zip(homes, reversed(homes), strict=True):
        assert [path.name for path in (disk / "disk").glob("*/process_*")] == [
            f"process_{disk.name[-1]}"
        ]
        (disk / "disk").rename(home / "other")
    for home in homes:
        (home / "other").rename(home / "disk")
    for folder, lost in [(tmp_path / "replicas", 1), (tmp_path / "halves", 0)]:
        undisturbed[folder] = params(folder / "run")
        shutil.rmtree(folder / "run" / "checkpoints" / "8")
        [disk] = (folder / "local").glob(f"*/process_{lost}")
        shutil.rmtree(disk)
    resumed = train_in_processes(configs, tmp_path, count=2, devices=1)
    read = [sorted(seen[0]["batches"]) for seen in resumed]
    assert read == [["6", "7"], ["4", "5", "6", "7"], ["6", "7"]]
    for folder, expected in undisturbed.items():
        assert tiny.equal(params(folder / "run"), expected)
