"""Signals in training: acknowledged at once, obeyed between batches, and nothing is half-done."""

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest

import runs
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.decoding import completions
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import Stopped, UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.config.schema import SamplesConfig
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.telemetry import display
from llmjax.scoring import documents
from llmjax.scoring.config import EvaluationConfig
from llmjax.training.stopping import StartStatus, StoppedEarly, StopSignal
from llmjax.training.train import train


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def until(lines: list[str], count: int) -> list[str]:
    """The lines, once another thread has written so many."""
    end = time.monotonic() + 30
    while len(lines) < count and time.monotonic() < end:
        time.sleep(0.01)
    return lines


@contextlib.contextmanager
def listening(status: StartStatus):
    """An open StopSignal of a training run, and the lines that it has printed."""
    lines: list[str] = []
    with StopSignal(status) as stop:
        stop.say = lines.append
        yield stop, lines


def test_a_first_signal_says_what_is_finished_and_what_a_second_one_costs():
    with listening(StartStatus(step=7, saved=4)) as (stop, lines):
        stop.finish_first()
        send(signal.SIGINT)
        assert stop.name == "SIGINT"
        assert until(lines, 1) == [
            "llmjax: SIGINT received: finishing step 7 and saving; press Ctrl-C again to stop "
            "without saving (the steps since checkpoint 4 are lost)"
        ]
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert until(lines, 2)[1:] == [
            "llmjax: SIGINT received again: stopping without saving; the steps since checkpoint 4 "
            "are lost"
        ]


def test_sigterm_says_the_same_in_its_own_words():
    with listening(StartStatus(step=1, measuring="evaluation")) as (stop, lines):
        stop.finish_first()
        send()
        assert until(lines, 1) == [
            "llmjax: SIGTERM received: leaving the evaluation of step 1 and saving; send it again "
            "to stop without saving (all steps are lost)"
        ]


def test_before_training_a_signal_stops_at_once():
    with listening(StartStatus()) as (stop, lines):
        with pytest.raises(StoppedEarly):
            send()
        assert stop.name == "SIGTERM"
        assert until(lines, 1) == ["llmjax: SIGTERM received: stopping; nothing was trained yet"]


@pytest.mark.parametrize("stderr", ["none", "closed"])
def test_a_signal_needs_no_stderr(stderr, monkeypatch):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with open(os.devnull, "w") as closed:
        pass
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None if stderr == "none" else closed)
        with StopSignal(StartStatus(step=1)) as stop:
            stop.finish_first()
            send()
            assert stop.name == "SIGTERM"
        display.Lines(3).say("a line")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


def signal_before_batch(monkeypatch, module, number: int):
    """Sends SIGTERM before the module's batch of this number; returns the counter of batches."""
    check, count = module.between_batches, itertools.count(1)

    def counting():
        if next(count) == number:
            send()
        check()

    monkeypatch.setattr(module, "between_batches", counting)
    return count


def measured(folder) -> list[tuple]:
    return [(line["step"], line["loss"]) for line in runs.metrics(folder, "eval")]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """An uninterrupted run: its config, its folder, and its number of evaluation batches."""
    folder = tmp_path_factory.mktemp("whole")
    config = runs.config(
        folder,
        evaluation=EvaluationConfig(every=4, batch_size=1, max_tokens=96),
        checkpoint=CheckpointConfig(every=100, keep_last=9),
    )
    with pytest.MonkeyPatch.context() as patch:
        count = signal_before_batch(patch, documents, 0)
        train(config)
    return config, folder / "run", next(count) - 1


@pytest.mark.once
@pytest.mark.parametrize(("batch", "step"), [(2, 4), (-1, 8)])
def test_an_evaluation_is_left_between_batches_and_made_up_for(
    uninterrupted, batch, step, tmp_path, monkeypatch, caplog
):
    expected_config, expected_run, batches = uninterrupted
    config = replace(expected_config, run_dir=str(tmp_path / "run"))
    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        signal_before_batch(patch, documents, batch % (batches + 1))
        with pytest.raises(Stopped, match=f"SIGTERM: saved step {step}; start the same command"):
            train(config)
    assert run.steps()[-1] == step
    assert step not in dict(measured(run.folder))
    assert read_progress(run.checkpoints, step).evaluation_due
    train(config)
    message = f"resuming from step {step} of 8; first, its evaluation or samples are due"
    assert message in caplog.text
    assert measured(run.folder) == measured(expected_run)
    assert runs.metrics(run.folder)[-1]["loss"] == runs.metrics(expected_run)[-1]["loss"]
    progress, expected = (
        read_progress(folder / "checkpoints", 8) for folder in (run.folder, expected_run)
    )
    assert replace(progress, seconds=0.0) == replace(expected, seconds=0.0)
    assert not read_progress(run.checkpoints, step).evaluation_due


@pytest.mark.once
def test_samples_are_left_between_pieces_and_made_up_for(tmp_path, monkeypatch):
    config = runs.config(
        tmp_path,
        steps=3,
        samples=SamplesConfig(every=3, prompts=("a cat", "a dog"), decoding=DecodingConfig(4)),
    )
    with monkeypatch.context() as patch:
        signal_before_batch(patch, completions, 2)
        with pytest.raises(Stopped, match="saved step 3"):
            train(config)
    samples = tmp_path / "run" / "samples.jsonl"
    assert samples.read_text() == ""
    train(config)
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in lines] == [(3, "a cat"), (3, "a dog")]
    assert [line["step"] for line in runs.metrics(tmp_path / "run", "eval")] == [3]


def config_file(folder, config) -> str:
    path = folder / "config.py"
    path.write_text(
        "from llmjax.run.config.storage import from_json\n"
        f"def config():\n    return from_json({to_json(config)!r})\n"
    )
    return str(path)


def test_a_second_signal_ends_with_130_and_says_what_is_lost(tmp_path, monkeypatch, command):
    def interrupt(step, _):
        if step == 3:
            send(signal.SIGINT)
            time.sleep(0.1)  # else Python may handle the two as one
            send(signal.SIGINT)
            time.sleep(1)  # until it is handled

    runs.before_step(monkeypatch, interrupt)
    code, _, lines = command("train", config_file(tmp_path, runs.config(tmp_path)))
    assert code == 130
    assert lines[0].startswith("llmjax: SIGINT received: finishing step 3 and saving")
    assert lines[1].endswith("stopping without saving; the steps since checkpoint 2 are lost")
    assert Run(tmp_path / "run").steps() == [2]


def test_a_signal_while_text_is_prepared_ends_with_75_and_leaves_nothing(
    tmp_path, monkeypatch, command
):
    def interrupted(*_):
        assert (tmp_path / "run").is_dir()
        send()
        raise AssertionError("not stopped")

    monkeypatch.setattr(BytesConfig, "open", interrupted)
    code, _, lines = command("train", config_file(tmp_path, runs.config(tmp_path)))
    assert code == 75
    assert lines[-1] == (
        "llmjax: SIGTERM: nothing was trained yet; start the same command again to begin"
    )
    assert not (tmp_path / "run").exists()


MISTAKES = {
    "no such text": ("data", "not found|no such|does not exist|matches"),
    "a mesh that does not fit": ("mesh", "does not fit 8 cpu devices"),
    "a model that does not divide": ("model", "does not divide"),
    "no tokenizer": ("tokenizer", "nowhere/tokenizer.json"),
}


def mistaken(config, which):
    if which == "data":
        source = replace(config.data.sources[0], paths=("nowhere/*.txt",))
        return replace(config, data=replace(config.data, sources=(source,)))
    if which == "mesh":
        return replace(config, mesh=MeshConfig(data=3))
    if which == "model":
        return replace(config, model=ModelConfig(d_model=20, num_heads=2), mesh=MeshConfig(fsdp=8))
    from llmjax.data.tokenizers.config import HuggingFaceTokenizerConfig

    return replace(config, tokenizer=HuggingFaceTokenizerConfig("nowhere/tokenizer.json"))


@pytest.mark.parametrize(("which", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_failed_start_leaves_no_folder(tmp_path, which, message):
    config = replace(mistaken(runs.config(tmp_path), which), run_dir=str(tmp_path / "a/b/run"))
    with pytest.raises(UserError, match=message):
        train(config)
    assert not (tmp_path / "a").exists()


def test_a_failed_start_leaves_what_was_there_before(tmp_path):
    config = mistaken(runs.config(tmp_path), "data")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".note").write_text("mine")
    with pytest.raises(UserError):
        train(config)
    assert [path.name for path in folder.iterdir()] == [".note"]


@pytest.mark.once
def test_a_run_that_was_trained_keeps_all_when_a_later_start_fails(tmp_path, caplog):
    config = runs.config(tmp_path, steps=3)
    train(config)
    before = sorted((tmp_path / "run").rglob("*"))
    (tmp_path / "text").unlink()
    with pytest.raises(UserError):
        train(replace(config, steps=5))
    assert sorted((tmp_path / "run").rglob("*")) == before
    runs.write_text(tmp_path / "text")
    train(replace(config, steps=5))
    assert "run: resuming from step 3 of 5" in caplog.text
