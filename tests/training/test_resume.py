"""A run that stops and goes on is the run that never stopped."""

import contextlib
import os
import shutil
import signal
from dataclasses import replace
from functools import partial

import jax
import pytest

import runs
import tiny
from llmjax.data.loader import Loader, batch_at
from llmjax.data.text.corpus import prepare
from llmjax.errors import Stopped, UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.training import session
from llmjax.training.train import train


@pytest.fixture
def devices(monkeypatch):
    """Call it with a number to train on that many devices."""

    def use(count: int) -> None:
        some = partial(make_mesh, devices=jax.devices()[:count])
        monkeypatch.setattr(session, "make_mesh", some)

    return use


@pytest.fixture
def batches(monkeypatch) -> dict[int, str]:
    """Digest of every batch trained on, by step."""
    seen: dict[int, str] = {}

    class Recording(Loader):
        def __next__(self):
            step, batch = super().__next__()
            seen[step] = runs.digest(batch)
            return step, batch

    monkeypatch.setattr("llmjax.training.train.Loader", Recording)
    return seen


class Stop(Exception):
    """Ends a run as abruptly as an exception can."""


def stop_after(monkeypatch, step: int | None) -> None:
    """Ends the run right after the checkpoint of this step was handed over."""
    save = Checkpoints.save

    def stopping(self, state, progress):
        save(self, state, progress)
        if progress.step == step:
            raise Stop

    monkeypatch.setattr(Checkpoints, "save", stopping)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was not interrupted, on two devices."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "make_mesh", partial(make_mesh, devices=jax.devices()[:2]))
        train(runs.config(folder))
    return folder


def beside(whole, tmp_path):
    """A config of the same run in another folder."""
    shutil.copy(whole / "text", tmp_path / "text")
    config = runs.config(tmp_path)
    return replace(config, data=runs.config(whole).data)


def test_half_and_half_is_the_whole_bit_for_bit(whole, tmp_path, monkeypatch, devices):
    devices(2)
    config = beside(whole, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stop):
            train(config)
    train(config)
    assert tiny.equal(runs.params(tmp_path / "run"), runs.params(whole / "run"))
    for mine, theirs in zip(
        runs.metrics(tmp_path / "run"), runs.metrics(whole / "run"), strict=True
    ):
        for name in ("step", "loss", "gradient_norm", "learning_rate", "tokens", "epoch"):
            assert mine[name] == theirs[name]


def test_other_devices_take_the_same_batches(whole, tmp_path, monkeypatch, devices, batches):
    config = beside(whole, tmp_path)
    stages = ((8, MeshConfig(tensor=2), 2), (4, MeshConfig(sequence=2), 4), (2, MeshConfig(), None))
    for count, mesh, until in stages:
        devices(count)
        with monkeypatch.context() as patch:
            stop_after(patch, until)
            with contextlib.suppress(Stop):
                train(replace(config, mesh=mesh))
    _, corpus = prepare(config.data, config.tokenizer)
    expected = {step: batch_at(corpus, config.data, config.seed, step) for step in range(8)}
    assert batches == {step: runs.digest(batch) for step, batch in expected.items()}
    assert [line["step"] for line in runs.metrics(tmp_path / "run")] == list(range(1, 9))


def test_a_signal_saves_the_step_and_the_same_command_goes_on(
    whole, tmp_path, monkeypatch, devices
):
    devices(2)
    config = beside(whole, tmp_path)
    config = replace(config, checkpoint=replace(config.checkpoint, every=100))

    class Interrupting(Loader):
        """A signal comes with the batch of the fourth step."""

        def __next__(self):
            step, batch = super().__next__()
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return step, batch

    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("llmjax.training.train.Loader", Interrupting)
        with pytest.raises(Stopped, match="SIGTERM: saved step 4; start the same command"):
            train(config)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["4"]
    train(config)
    assert tiny.equal(runs.params(tmp_path / "run"), runs.params(whole / "run"))


def test_a_finished_run_says_so_and_changes_nothing(whole, caplog, devices):
    devices(2)
    before = {path: path.stat().st_mtime_ns for path in (whole / "run" / "checkpoints").rglob("*")}
    assert train(runs.config(whole)) == whole / "run"
    assert "all 8 steps are done; nothing to do" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_other_text_is_refused(tmp_path, devices):
    devices(2)
    config = runs.config(tmp_path, steps=3)
    train(config)
    runs.write_text(tmp_path / "text", seed=1)
    with pytest.raises(UserError, match="trained on another corpus"):
        train(replace(config, steps=5))
