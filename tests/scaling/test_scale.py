"""A ladder from its first run to its report: branches, predictions, what a second start does."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from llmjax.data.config import DataConfig
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.prediction import FILE, Prediction, predict, prediction_of
from llmjax.scaling.engines.engine import Engine
from llmjax.scaling.folder import LadderFolder, is_finished
from llmjax.scaling.ladder import LadderConfig, decay_start, members
from llmjax.scaling.laws import LossLaw
from llmjax.scaling.points import Point
from llmjax.scaling.report import write_report
from llmjax.scaling.results import steepens
from llmjax.scaling.scale import scale, train_named
from llmjax.training.train import train

LADDER = LadderConfig(depths=(1, 2), ratios=(0.5, 1.0, 2.0), held_out_depth=3, held_out_factor=2)


@dataclass(frozen=True)
class Here(Engine):
    """Trains in this process."""

    def run(self, folder, rows, done):
        for index, row in enumerate(rows):
            train_named(LadderFolder.open(folder), row)
            done(index, 0)
        return [0] * len(rows)


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("LLMJAX_CACHE", str(tmp_path / "cache"))
    words = np.random.default_rng(0).choice(["one", "two", "three", "four", "five"], 12_000)
    (tmp_path / "text.txt").write_text("\n".join(map(" ".join, words.reshape(-1, 10))))
    return Config(
        steps=40,
        model=ModelConfig(max_length=16, d_model=16, num_decoder_layers=2, num_heads=2),
        tokenizer=BytesConfig(),
        data=DataConfig(
            sources=(TextSource((str(tmp_path / "text.txt"),), split="line"),),
            batch_size=16,
            length=16,
            workers=1,
        ),
        optimizer=AdamWConfig(
            3e-2, ScheduleConfig("wsd", 4, final_fraction=0.0, decay_fraction=0.3)
        ),
    )


@pytest.mark.once
def test_a_ladder_is_trained_fitted_and_its_larger_run_predicted(config, tmp_path):
    path = tmp_path / "ladder"
    folder = LadderFolder.create(path, config, LADDER)
    scaled = scale(folder, Here(), bootstraps=20)

    assert [point.is_held_out for point in scaled.points].count(False) == 6
    (outcome,) = scaled.outcomes
    run = Run(path / "runs" / "held-out-d3-s0")
    assert outcome.prediction == prediction_of(run)
    assert outcome.prediction.low < outcome.prediction.bits_per_byte < outcome.prediction.high
    assert outcome.measured == run.metrics("eval")["bits_per_byte"][-1]
    assert outcome.prediction.written < run.metrics("eval")["time"][-1]
    assert set(outcome.prediction.runs) == {f"d{d}-r{r}-s0" for d in (1, 2) for r in (0.5, 1, 2)}

    page = write_report(scaled).read_text()
    assert f"{outcome.prediction.bits_per_byte:.4f}" in page
    assert f"{outcome.error:+.2%}" in page
    table = pyarrow.parquet.read_table(path / "points.parquet").to_pydict()
    assert table["bits_per_byte"] == [point.bits_per_byte for point in scaled.points]
    assert len((path / "points.csv").read_text().splitlines()) == 8
    fit = json.loads((path / "fit.json").read_text())
    assert fit["held_out"]["held-out-d3-s0"]["measured"] == outcome.measured

    again = scale(LadderFolder.create(path, config, LADDER), Here(), bootstraps=20)
    assert again.points == scaled.points
    assert again.outcomes == scaled.outcomes


def test_a_branch_ends_as_a_run_of_its_own(config, tmp_path):
    folder = LadderFolder.create(tmp_path / "ladder", config, replace(LADDER, depths=(1,)))
    short, middle, _ = [m for m in folder.members() if not m.is_held_out]
    assert (middle.begins_from, middle.branch_step) == (short.name, decay_start(short.config))
    train_named(folder, short.name)
    assert all(is_finished(member) for member in folder.rows(held_out=False)[0])
    alone = train(replace(middle.config, run_dir=str(tmp_path / "alone")))
    branch = Run(Path(middle.config.run_dir))
    assert branch.metrics("eval")["loss"][-1] == alone.metrics("eval")["loss"][-1]
    assert branch.metrics()["step"] == sorted(set(branch.metrics()["step"]))


def test_a_held_out_run_costs_what_was_asked(config, tmp_path):
    found = members(config, LADDER, tmp_path)
    largest = max(member.flops for member in found if not member.is_held_out)
    assert found[-1].is_held_out
    assert found[-1].flops == pytest.approx(2 * largest, rel=0.1)


def test_another_config_is_refused_and_more_runs_are_added(config, tmp_path):
    LadderFolder.create(tmp_path / "ladder", config, LADDER)
    with pytest.raises(UserError, match="ladder of another config"):
        LadderFolder.create(tmp_path / "ladder", replace(config, seed=1), LADDER)
    more = LadderFolder.create(tmp_path / "ladder", config, replace(LADDER, seeds=(0, 1)))
    assert len(LadderFolder.open(tmp_path / "ladder").members()) == len(more.members()) == 14


def test_what_has_begun_cannot_be_predicted(config, tmp_path):
    run = train(replace(config, run_dir=str(tmp_path / "run"), steps=8))
    told = Prediction(1.0, 0.9, 1.1, 0.95, "L", ("a",), 0.0)
    with pytest.raises(UserError, match="has begun to train"):
        predict(run, told)
    other = Run.create(replace(config, run_dir=str(tmp_path / "new")))
    predict(other, told)
    assert prediction_of(other) == told
    path = other.folder / FILE
    path.write_text(path.read_text().replace("0.9,", "0.8,"))
    with pytest.raises(UserError, match="was changed after it was written"):
        prediction_of(other)


def point(parameters: int, tokens: int, bits: float, **changes) -> Point:
    """A finished run."""
    rest = dict.fromkeys(("depth", "width", "seed", "batch_size", "steps"), 1)
    rest |= {"learning_rate": 0.1, "weight_decay": 0.1, "nats_per_token": 1.0, "flops": 1.0}
    rest |= {"name": "a", "parameters_without_embeddings": parameters, "unique_tokens": 10**9}
    rest |= {"is_held_out": False} | changes
    return Point(parameters=parameters, tokens=tokens, bits_per_byte=bits, **rest)


def test_runs_that_are_too_short_for_a_law_are_noticed():
    sizes, tokens = (10**5, 10**6), (10**6, 2 * 10**6, 4 * 10**6)
    law = LossLaw(0.8, 40.0, 0.4, 300.0, 0.4)
    good = [point(n, d, float(law.loss(n, d))) for n in sizes for d in tokens]
    assert not steepens(good)
    falling = dict(zip(tokens, (2.6, 2.2, 1.7), strict=True))
    assert steepens([point(n, d, falling[d]) for n in sizes for d in tokens])
    assert not steepens(good[:2])
