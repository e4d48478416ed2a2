"""A resumed run equals one that was never interrupted."""

import contextlib
import os
import shutil
import signal
import time
from dataclasses import replace

import pytest

import runs
import tiny
from llmjax.data.loader import batch_at
from llmjax.data.text.corpus import prepare
from llmjax.errors import Stopped, UserError
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.folder import Run
from llmjax.run.telemetry.goodput import read_goodput
from llmjax.training.train import train


@pytest.fixture
def two_devices(monkeypatch):
    runs.train_on(monkeypatch, 2)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run that was not interrupted, on two devices."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        runs.train_on(patch, 2)
        train(runs.config(folder))
    return folder


def same_run(uninterrupted, tmp_path):
    """A config of the same run in another folder."""
    shutil.copy(uninterrupted / "text", tmp_path / "text")
    config = runs.config(tmp_path)
    return replace(config, data=runs.config(uninterrupted).data)


@pytest.mark.usefixtures("two_devices")
def test_half_and_half_is_the_whole_bit_for_bit(uninterrupted, tmp_path, monkeypatch):
    config = same_run(uninterrupted, tmp_path)
    with monkeypatch.context() as patch:
        runs.stop_after_save(patch, 4)
        with pytest.raises(runs.Stop):
            train(config)
    train(config)
    assert tiny.equal(runs.params(tmp_path / "run"), runs.params(uninterrupted / "run"))
    for line, expected in zip(
        runs.metrics(tmp_path / "run"), runs.metrics(uninterrupted / "run"), strict=True
    ):
        for name in ("step", "loss", "gradient_norm", "learning_rate", "tokens", "epoch"):
            assert line[name] == expected[name]


def test_other_devices_take_the_same_batches(uninterrupted, tmp_path, monkeypatch):
    config = same_run(uninterrupted, tmp_path)
    digests: dict[int, str] = {}
    runs.before_step(monkeypatch, lambda step, batch: digests.update({step: runs.digest(batch)}))
    stages = ((8, MeshConfig(tensor=2), 2), (4, MeshConfig(sequence=2), 4), (2, MeshConfig(), None))
    for count, mesh, last_step in stages:
        with monkeypatch.context() as patch:
            runs.train_on(patch, count)
            runs.stop_after_save(patch, last_step)
            with contextlib.suppress(runs.Stop):
                train(replace(config, mesh=mesh))
    _, corpus = prepare(config.data, config.tokenizer)
    expected = {step: batch_at(corpus, config.data, config.seed, step) for step in range(8)}
    assert digests == {step: runs.digest(batch) for step, batch in expected.items()}
    assert [line["step"] for line in runs.metrics(tmp_path / "run")] == list(range(1, 9))


@pytest.mark.usefixtures("two_devices")
def test_a_signal_saves_the_step_and_the_same_command_resumes(uninterrupted, tmp_path, monkeypatch):
    config = same_run(uninterrupted, tmp_path)
    config = replace(config, checkpoint=replace(config.checkpoint, every=100))
    began = time.time()

    def interrupt(step, _):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        runs.before_step(patch, interrupt)
        with pytest.raises(Stopped, match="SIGTERM: saved step 4; start the same command"):
            train(config)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["4"]
    train(config)
    assert tiny.equal(runs.params(tmp_path / "run"), runs.params(uninterrupted / "run"))
    goodput = read_goodput(tmp_path / "run" / "goodput.json")
    assert goodput["starts"] == 2
    assert goodput["seconds"]["compile"] > 0
    total = sum(goodput["seconds"].values())
    assert total == pytest.approx(goodput["time"] - began, rel=0.01, abs=0.1)


@pytest.mark.usefixtures("two_devices")
def test_a_finished_run_says_so_and_changes_nothing(uninterrupted, caplog):
    checkpoints = uninterrupted / "run" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoints.rglob("*")}
    assert train(runs.config(uninterrupted)).folder == uninterrupted / "run"
    assert "all 8 steps are done; nothing to do" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.once
@pytest.mark.usefixtures("two_devices")
def test_other_text_is_refused(tmp_path):
    config = runs.config(tmp_path, steps=3)
    train(config)
    runs.write_text(tmp_path / "text", seed=1)
    before = Run(tmp_path / "run").config()
    with pytest.raises(UserError, match="trained on another corpus"):
        train(replace(config, steps=5))
    assert Run(tmp_path / "run").config() == before, "a refused start changes nothing"
