"""Training in buckets, against a real S3 server (and a GCS one): killed, resumed, read."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from test_multiprocess import free_port

import runs
import tiny
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint import remote
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.remote import publisher
from llmjax.storage.checksums import MANIFEST
from llmjax.storage.stores.path import location
from llmjax.training.train import train
from object_stores import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The config of a local run that trained without a break."""
    config = runs.config(tmp_path_factory.mktemp("local"), steps=6)
    with pytest.MonkeyPatch.context() as patch:
        runs.train_on(patch, 1)
        train(config)
    return config


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(publisher, "PAUSES", (0.01,))
    runs.train_on(monkeypatch, 1)


def in_bucket(config, server, name, **changes):
    return replace(config, run_dir=server.address(name), **changes)


def same_params(one, other):
    assert jax.tree.all(jax.tree.map(np.array_equal, runs.params(one), runs.params(other)))


def losses(folder):
    return [(line["step"], line["loss"]) for line in runs.metrics(folder)]


def refusing(step):
    """Uploads, but not what belongs to the checkpoint of this step, of which half arrives."""
    upload = remote.upload_files

    def upload_half(local, target, names):
        if target.name != str(step):
            return upload(local, target, names)
        upload(local, target, list(names)[::2])
        raise UserError(target, "the store refused the request: no more room", "try again")

    return upload_half


def test_resumed_in_a_bucket_as_undisturbed(server, undisturbed, command, monkeypatch):
    """After a failed upload, which keeps the checkpoint before."""
    keep = CheckpointConfig(every=2, keep_last=2)
    config = in_bucket(undisturbed, server, "runs/x", checkpoint=keep)
    address, store = config.run_dir, location(config.run_dir)
    with monkeypatch.context() as patch:
        patch.setattr(remote, "upload_files", refusing(4))
        with pytest.raises(UserError, match=r"x/checkpoints/4: the store refused"):
            train(config)
    assert not (store / ".lock").is_file()
    assert any(name.startswith("checkpoints/4/") for name in store.files())
    assert Run.open(address).steps() == [2]
    (store / "checkpoints/4/params/old/c/0").write_bytes(b"of another mesh")

    run = train(config)
    assert (run.address, run.steps()) == (address, [4, 6])
    names = store.files()
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"4", "6"}
    assert "checkpoints/4/params/old/c/0" not in names
    opened = Run.open(address).folder
    same_params(opened, undisturbed.run_dir)
    assert losses(opened) == losses(undisturbed.run_dir)
    if server.scheme != "s3":
        return  # commands use the same code for both

    code, printed, err = command("evaluate", address, "--json")
    assert code == 0, err
    assert json.loads(printed.splitlines()[-1])["run"] == address
    code, _, err = command("train", address, "--steps", "7", "--log.display", "none")
    assert code == 0, err
    assert Run.open(address).steps() == [6, 7]
    assert command("report", address)[0] == 0
    assert (store / "report.html").is_file()


WORKER = """
import sys, time, pytest, runs
from llmjax.run.config.storage import from_json
from llmjax.training.train import train
runs.before_step(pytest.MonkeyPatch(), lambda step, _: time.sleep(600 * (step == 5)))
train(from_json(open(sys.argv[1]).read()))
"""


@pytest.mark.once
def test_processes_without_shared_files_are_killed_and_one_resumes(
    server, undisturbed, monkeypatch, tmp_path
):
    """Begun on a mesh in one process, resumed by two with disks of their own, which are killed, and
    ended by one on one device, from a checkpoint before a damaged one."""
    if server.scheme != "s3":
        pytest.skip("the same code")
    config = in_bucket(undisturbed, server, "runs/meshed", mesh=MeshConfig(fsdp=2))
    store = location(config.run_dir)
    with monkeypatch.context() as patch:
        runs.train_on(patch, 2)
        runs.stop_after_save(patch, 2)
        with pytest.raises(runs.Stop):
            train(config)
    begun = len(server.requests)
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join(map(str, (tiny.HERE, tiny.HERE.parent))),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    workers = []
    for index in range(2):
        own = replace(config, data=replace(config.data, cache_dir=str(tmp_path / f"disk{index}")))
        (tmp_path / f"{index}.json").write_text(to_json(own))
        command = [sys.executable, "-c", WORKER, str(tmp_path / f"{index}.json")]
        variables = {"JAX_PROCESS_ID": str(index), "LLMJAX_CACHE": str(tmp_path / f"disk{index}")}
        with (tmp_path / f"{index}.log").open("w") as log:
            workers.append(subprocess.Popen(command, env=environment | variables, stderr=log))
    try:
        while not (store / f"checkpoints/4/{MANIFEST}").is_file():
            ended = [index for index, worker in enumerate(workers) if worker.poll() is not None]
            assert not ended, "".join((tmp_path / f"{index}.log").read_text() for index in range(2))
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert (store / ".lock").is_file()
    chunk = "checkpoints/2/params/embedding.rows/c/"  # each half, once, by who needs it
    fetched = [line for line in server.requests[begun:] if "GET" in line and chunk in line]
    assert len(fetched) == len(set(fetched)) == 2

    name = next(name for name in store.files() if "4/training/" in name and "/c/" in name)
    (store / name).write_bytes(b"damage")
    train(replace(config, mesh=MeshConfig()))
    assert name.replace("checkpoints/4/", "checkpoints/4.damaged/") in store.files()
    assert Run.open(config.run_dir).steps() == [2, 4, 6]
    for (step, loss), (same, expected) in zip(
        losses(Run.open(config.run_dir).folder), losses(undisturbed.run_dir), strict=True
    ):
        assert (step, loss) == (same, pytest.approx(expected, abs=1e-5))


def test_failed_start_leaves_nothing(server, undisturbed):
    config = in_bucket(undisturbed, server, "runs/failed", mesh=MeshConfig(data=8))
    with pytest.raises(UserError, match="does not fit 1 cpu devices"):
        train(config)
    assert not location(config.run_dir).files()
