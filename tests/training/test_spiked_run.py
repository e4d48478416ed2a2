"""A run that skips spikes resumes exactly: what is recent is part of its checkpoints."""

import shutil

import pytest

import runs
import tiny
from llmjax.optimizers.spikes import SpikesConfig
from llmjax.training.train import train


@pytest.mark.once
def test_the_second_half_skips_what_the_whole_run_skips(tmp_path, monkeypatch, capfd):
    runs.train_on(monkeypatch, 2)
    config = runs.config(tmp_path, spikes=SpikesConfig(factor=0.01, recent=8), steps=12)
    train(config)
    whole, first = runs.params(tmp_path / "run"), runs.metrics(tmp_path / "run")
    assert first[3]["skipped"] == 0 < first[-1]["skipped"]
    assert "update skipped: loss " in capfd.readouterr().err
    for step in ("6", "8", "10", "12"):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / step)
    train(config)
    again = runs.metrics(tmp_path / "run")
    assert tiny.equal(runs.params(tmp_path / "run"), whole)
    for name in ("loss", "skipped", "gradient_norm"):
        assert [line[name] for line in again] == [line[name] for line in first]
