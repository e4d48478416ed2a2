"""After a loss spike a run goes back to its checkpoint and leaves out the batches between."""

import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import pytest

import runs
import tiny
from llmjax.errors import UserError
from llmjax.optimizers.spikes import SpikesConfig
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.progress import read_progress
from llmjax.training.train import train

SPIKES = SpikesConfig(factor=1e3, recent=8, action="roll_back", max_roll_backs=1)


def spike_at(patch, *bad: int) -> list[int]:
    """Makes spikes of batches; returns a list to which the index of each batch read is added."""
    read: list[int] = []

    def before(index, batch):
        read.append(index)
        if index in bad:
            batch["weights"] = jnp.full_like(batch["weights"], jnp.nan)

    runs.before_step(patch, before)
    return read


def progress(folder, step):
    return read_progress(folder / "checkpoints", step)


def events(folder) -> list[tuple[int, str]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["kind"]) for line in lines]


def test_a_run_rolls_back_resumes_exactly_and_ends_after_too_many(tmp_path, monkeypatch, capfd):
    runs.train_on(monkeypatch, 2)
    read, folder = spike_at(monkeypatch, 7, 8), tmp_path / "run"
    every = CheckpointConfig(every=3, every_minutes=None, keep_last=100)
    config = runs.config(tmp_path, spikes=SPIKES, steps=10, checkpoint=every)

    with pytest.raises(UserError, match=r"^step 7: a loss spike \(loss .*\) after 1 roll backs"):
        train(config)
    # The spike of a step is known once the next one has begun.
    assert read == [*range(9), 8, 9]
    said = capfd.readouterr().err
    assert "back to checkpoint 6, leaving out batches 6 to 7 (roll back 1)" in said
    assert events(folder) == [*((step, "train") for step in range(1, 7)), (6, "roll_back")]

    read.clear()
    train(replace(config, spikes=replace(SPIKES, max_roll_backs=2)))
    assert read == [8, 9, *range(9, 13)]
    assert progress(folder, 10).left_out == ((6, 2), (6, 1))
    assert (progress(folder, 10).batch, progress(folder, 10).skipped) == (13, 0)
    whole, first = runs.params(folder), runs.metrics(folder)
    assert [line["step"] for line in first] == list(range(1, 11))
    assert first[-1]["tokens"] == 10 * first[0]["tokens"]

    for step in ("9", "10"):
        shutil.rmtree(folder / "checkpoints" / step)
    read.clear()
    train(replace(config, spikes=replace(SPIKES, action="skip")))  # what is left out stays so
    assert read == list(range(9, 13))
    assert tiny.equal(runs.params(folder), whole)
    for name in ("loss", "gradient_norm", "epoch", "tokens"):
        assert [line[name] for line in runs.metrics(folder)] == [line[name] for line in first]


@pytest.mark.once
def test_without_a_checkpoint_it_returns_to_the_start_and_ends_with_the_data(
    tmp_path, monkeypatch, capfd
):
    runs.train_on(monkeypatch, 2)
    read, folder = spike_at(monkeypatch, 5), tmp_path / "run"
    runs.write_text(tmp_path / "text", sentences=60)
    config = runs.config(tmp_path, spikes=SPIKES)
    data = replace(config.data, on_exhaustion="stop")
    train(replace(config, data=data, steps=1000, checkpoint=CheckpointConfig(every=0)))
    assert read == [*range(7), *range(6, 15)]
    assert events(folder)[0] == (0, "roll_back")
    assert events(folder)[-1] == (9, "eval")
    assert "back to the start, leaving out batches 0 to 5" in capfd.readouterr().err
