"""Training in buckets, against a real S3 server (and a GCS one): killed, resumed, read."""

import json
from dataclasses import replace

import numpy as np
import pytest

import runs
from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint import remote
from llmjax.run.checkpoint.config import CheckpointConfig
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
    import jax

    assert jax.tree.all(jax.tree.map(np.array_equal, runs.params(one), runs.params(other)))


def losses(folder):
    return [(line["step"], line["loss"]) for line in runs.metrics(folder)]


def test_resumed_in_a_bucket_as_undisturbed(server, undisturbed, command, monkeypatch):
    keep = CheckpointConfig(every=2, keep_last=2)
    config = in_bucket(undisturbed, server, "runs/x", checkpoint=keep)
    address, store = config.run_dir, location(config.run_dir)
    with monkeypatch.context() as patch:
        runs.stop_after_save(patch, 4)
        with pytest.raises(runs.Stop):
            train(config)
    assert not (store / ".lock").is_file()
    # As a kill would leave it: records after the last checkpoint, and one that is half uploaded.
    (store / f"checkpoints/4/{MANIFEST}").unlink()
    (store / "checkpoints/6/params/x/c/0").write_bytes(b"half")
    assert Run.open(address).steps() == [2]

    run = train(config)
    assert (str(run.address), run.steps()) == (address, [4, 6])
    names = store.files()
    assert {name.split("/")[1] for name in names if name.startswith("checkpoints/")} == {"4", "6"}
    assert "checkpoints/6/params/x/c/0" not in names
    local = undisturbed.run_dir
    opened = Run.open(address)
    same_params(opened.folder, local)
    assert losses(opened.folder) == losses(local)

    out = server.address("exports/x")
    assert command("export", address, out, "--no-verify")[0] == 0
    code, printed, err = command("evaluate", address, "--json")
    assert code == 0, err
    assert json.loads(printed.splitlines()[-1])["run"] == address
    code, _, err = command("train", address, "--steps", "7", "--log.display", "none")
    assert code == 0, err
    assert Run.open(address).steps() == [6, 7]
    assert command("report", address)[0] == 0
    assert (store / "report.html").is_file()


def test_another_mesh_fetches_only_its_chunks_and_equals(server, undisturbed, monkeypatch):
    if server.scheme != "s3":
        pytest.skip("the same code")
    mesh = MeshConfig(fsdp=4)
    config = in_bucket(undisturbed, server, "runs/meshed", mesh=mesh, steps=2)
    with monkeypatch.context() as patch:
        runs.train_on(patch, 4)
        train(config)
    names = location(config.run_dir).files()
    assert any(name.endswith("/c/3/0") or name.endswith("/c/0/3") for name in names)
    train(replace(config, mesh=MeshConfig(), steps=6))
    np.testing.assert_allclose(
        [loss for _, loss in losses(Run.open(config.run_dir).folder)],
        [loss for _, loss in losses(undisturbed.run_dir)],
        rtol=0,
        atol=1e-5,
    )


def test_failed_start_leaves_nothing(server, undisturbed, command):
    config = in_bucket(undisturbed, server, "runs/failed")
    with pytest.raises(UserError, match="batch"):
        train(replace(config, mesh=MeshConfig(data=8), data=replace(config.data, batch_size=4)))
    assert not location(config.run_dir).files()


def test_damaged_checkpoint_is_set_aside(server, undisturbed):
    config = in_bucket(undisturbed, server, "runs/damaged", steps=4)
    train(config)
    store = location(config.run_dir)
    name = next(name for name in store.files() if "4/training/" in name and "/c/" in name)
    (store / name).write_bytes(b"damage")
    train(replace(config, steps=6))
    names = store.files()
    assert name.replace("checkpoints/4/", "checkpoints/4.damaged/") in names
    same_params(Run.open(config.run_dir).folder, undisturbed.run_dir)


def test_store_that_fails_keeps_the_earlier_checkpoint(server, undisturbed, monkeypatch):
    if server.scheme != "s3":
        pytest.skip("the same code")
    config = in_bucket(undisturbed, server, "runs/full")
    upload = remote.upload_files

    def failing(local, target, names):
        if target.name == "4":
            raise UserError(target, "the store refused the request: no more room", "try again")
        upload(local, target, names)

    with monkeypatch.context() as patch:
        patch.setattr(remote, "upload_files", failing)
        with pytest.raises(UserError, match=r"checkpoints/4: the store refused"):
            train(config)
    assert Run.open(config.run_dir).steps() == [2]
    train(config)
    same_params(Run.open(config.run_dir).folder, undisturbed.run_dir)
