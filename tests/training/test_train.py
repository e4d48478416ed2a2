"""`train`: what it leaves behind, and how it ends when something is wrong."""

import json
import math
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import runs
import tiny
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.optimizers.trainable import TrainHeads
from llmjax.parallel.mesh import MeshConfig
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.progress import read_progress
from llmjax.run.config.schema import SamplesConfig
from llmjax.run.folder import Run
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.state import abstract_state
from llmjax.training import stopping
from llmjax.training.pretraining import Pretraining
from llmjax.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that evaluates, samples, saves and profiles; over a mesh of eight devices."""
    folder = tmp_path_factory.mktemp("run")
    config = runs.config(
        folder,
        mesh=MeshConfig(stage=2, fsdp=2, tensor=2),
        checkpoint=CheckpointConfig(every=2, keep_last=1, keep_best=1),
        evaluation=EvaluationConfig(every=4, batch_size=8),
        samples=SamplesConfig(every=8, prompts=("a cat",), decoding=DecodingConfig(4)),
        log=LogConfig(every=2, display="lines", tensorboard=True, profile=2),
    )
    assert train(config).folder == folder / "run"
    return folder / "run"


def test_leaves_one_folder_with_everything_in_it(run):
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert names >= {
        "config.json",
        "tokenizer",
        "checkpoints",
        "metrics.jsonl",
        "samples.jsonl",
        "tensorboard",
        "profile",
        "environment.json",
    }
    assert list((run / "profile").rglob("*.xplane.pb"))


def test_metrics_lines_say_all_that_was_promised(run):
    lines = runs.metrics(run)
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    promised = {"step", "kind", "time", "loss", "bits_per_byte", "learning_rate", "gradient_norm"}
    promised |= {"tokens_per_second", "model_flops_per_second", "mfu", "data_wait_share"}
    promised |= {"device_memory_bytes", "skipped", "tokens", "goodput"}
    assert all(promised <= set(line) for line in lines)
    assert [line["tokens"] for line in lines] == [2 * 8 * 16 * n for n in (1, 2, 3, 4)]
    assert lines[-1]["tokens_per_second"] > 0
    assert 0 <= lines[-1]["data_wait_share"] <= 1
    assert 0 < lines[-1]["goodput"] < 1
    # Raw bytes as tokens: each is one byte, but for the ends of documents.
    ratio = lines[-1]["bits_per_byte"] / (lines[-1]["loss"] / math.log(2))
    assert 1.0 <= ratio < 1.1


def test_evaluates_on_the_way_and_at_the_end(run):
    lines = runs.metrics(run, "eval")
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert lines[1]["heldout_bytes"] > 0
    kept = sorted(int(path.name) for path in (run / "checkpoints").iterdir())
    assert kept == [8]
    assert read_progress(run / "checkpoints", 8).heldout_loss == lines[1]["loss"]


def test_samples_follow_their_prompts(run):
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in lines] == [(8, "a cat")]
    assert lines[0]["text"]


@pytest.mark.once
def test_stops_after_too_many_steps_that_are_not_finite_with_a_good_checkpoint(
    tmp_path, monkeypatch
):
    losses = Pretraining.losses.fget

    def not_finite(workload):
        (function,) = losses(workload)

        def loss(params, batch, key):
            sums = function(params, batch, key)
            return sums._replace(objective=sums.objective * jnp.nan)

        return (loss,)

    config = runs.config(tmp_path, max_skipped_steps=3)
    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "losses", property(not_finite))
        with pytest.raises(UserError, match="not finite for 3 steps in a row"):
            train(config)
    checkpoints = tmp_path / "run" / "checkpoints"
    step = max(int(path.name) for path in checkpoints.iterdir())
    progress = read_progress(checkpoints, step)
    assert 3 <= step < 8
    assert (progress.step, progress.skipped) == (step, step)
    state = abstract_state(runs.MODEL, tiny.optimizer(config.optimizer), tiny.one_device())
    with Checkpoints(checkpoints, config.checkpoint) as manager:
        assert manager.restore(state)[0].step == step
    assert all(np.isfinite(leaf).all() for leaf in tiny.numbers(runs.params(tmp_path / "run")))
    assert runs.metrics(tmp_path / "run")[-1]["loss"] is None
    train(config)
    assert runs.metrics(tmp_path / "run")[-1]["skipped"] == step


def test_saves_by_the_clock(tmp_path, monkeypatch):
    config = runs.config(
        tmp_path, steps=3, checkpoint=CheckpointConfig(every=0, every_minutes=1e-9, keep_last=9)
    )
    train(config)
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["1", "2", "3"]


def test_text_that_may_not_repeat_ends_the_run(tmp_path):
    config = runs.config(tmp_path, steps=100_000)
    data = replace(config.data, on_exhaustion="stop", batch_size=128)
    config = replace(config, data=data, checkpoint=CheckpointConfig(every=0))
    train(config)
    (last,) = os.listdir(tmp_path / "run" / "checkpoints")
    assert 1 < int(last) < 100
    assert read_progress(tmp_path / "run" / "checkpoints", int(last)).epoch == pytest.approx(1.0)
    assert runs.metrics(tmp_path / "run")[-1]["learning_rate"] < 0.005


def test_text_that_must_suffice_and_does_not_is_refused_before_the_first_step(tmp_path):
    config = runs.config(tmp_path, steps=100_000)
    with pytest.raises(UserError, match=r"steps 100000: the text is exhausted after \d+"):
        train(replace(config, data=replace(config.data, on_exhaustion="error")))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": MeshConfig(data=3)}, "does not fit 8 cpu devices"),
        ({"mesh": MeshConfig(tensor=8)}, "does not divide over mesh"),
        ({"cpu_devices": 5}, "JAX has already started, with 8 CPU devices"),
    ],
)
def test_sizes_that_do_not_suit_the_devices_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(runs.config(tmp_path, **change))
    assert Run(tmp_path / "run").steps() == []


def test_a_text_has_no_head_that_alone_could_learn(tmp_path):
    with pytest.raises(UserError, match="trainable: heads: nothing is trained"):
        train(runs.config(tmp_path, trainable=TrainHeads()))
    assert Run(tmp_path / "run").steps() == []


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    config = runs.config(tmp_path)
    optimizer = replace(config.optimizer, accumulate=2)
    with pytest.raises(UserError, match=r"a part of the batch.*batch dimension of 4"):
        train(replace(config, optimizer=optimizer))


def test_an_unwritable_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"/proc.*cannot be written"):
        train(runs.config(tmp_path, run_dir="/proc/run"))


def test_the_consensus_of_one_process_is_immediate():
    consensus = stopping.HostConsensus(tiny.one_device(), flags=2)
    assert consensus(True, False) == (True, False)
    assert consensus(False, False) == (False, False)


def test_the_consensus_of_several_processes_is_read_one_step_late(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    mesh = tiny.make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        consensus = stopping.HostConsensus(mesh, flags=2)
        assert consensus(True, False) == (False, False)
        assert consensus(False, False) == (True, False)
        assert consensus(False, False) == (False, False)
