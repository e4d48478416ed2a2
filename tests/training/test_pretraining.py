"""Encoders and encoder-decoders in training: what they learn, and that nothing else decides it."""

import json
import math
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

import runs
import tiny
from data.objective_rows import BOS, FIRST, LAST, PAD, cut, keys, vocabulary
from llmjax.data.objectives.causal import Causal, Prefix
from llmjax.data.objectives.masked import Masked, MaskedConfig
from llmjax.data.objectives.mixture import Mixture, MixtureConfig
from llmjax.data.objectives.pairs import Continuation, PrefixConfig, SpanConfig, Spans
from llmjax.data.tokenizers.config import SentencePieceConfig
from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding
from llmjax.reporting.format import percent
from llmjax.reporting.report import report
from llmjax.run.config.schema import Config
from llmjax.run.telemetry.config import LogConfig
from llmjax.scoring.config import EvaluationConfig
from llmjax.state import make_state
from llmjax.step import make_train_step
from llmjax.training.train import train

SHAPE = replace(tiny.CONFIG, max_length=32)
ENCODER = replace(SHAPE, num_encoder_layers=2, num_decoder_layers=0, lm_head_transform=True)
BOTH = replace(SHAPE, num_encoder_layers=1, num_decoder_layers=1)
SPAN = SpanConfig(sentinels=8)
CASES = {
    "masked": (ENCODER, Masked(MaskedConfig(), vocabulary())),
    "prefix": (SHAPE, Prefix(Causal(BOS, PAD))),
    "span": (BOTH, Spans(SPAN, vocabulary())),
    "mixture": (BOTH, Mixture([Spans(SPAN, vocabulary()), Continuation(vocabulary())], [1, 1])),
}


@pytest.fixture(params=CASES)
def case(request):
    shape, objective = CASES[request.param]
    return Model(resolve(shape, LAST)), objective.batch(cut([9, 20, 3] * 20, 8, 32), keys(8))


def stepped(model, batch, mesh, steps=2):
    optimizer = make_optimizer(tiny.OPTIMIZER, 20, model.logical_axes())

    def loss(params, batch, key):
        return token_loss(model, params, batch)

    take_step = make_train_step(loss, optimizer, seed=0, clip_norm=1.0)
    placed = jax.device_put(batch, named_sharding(mesh, "batch", "length"))
    with jax.set_mesh(mesh):
        state = make_state(model, optimizer, 0, mesh)
        for _ in range(steps):
            state, metrics = take_step(state, placed)
    return tiny.numbers(state.params), jax.device_get(metrics)


def test_eight_devices_step_as_one(case):
    model, batch = case
    params, metrics = stepped(model, batch, tiny.one_device())
    sharded_params, sharded_metrics = stepped(
        model, batch, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    )
    assert metrics.skipped == sharded_metrics.skipped == 0
    assert metrics.sums["loss"].weight == batch["weights"].sum()
    assert sharded_metrics.objective == pytest.approx(float(metrics.objective), abs=1e-5)
    for a, b in zip(params, sharded_params, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-3)  # Adam's first steps are signs


def test_only_targets_of_weight_decide_loss_and_gradient(case):
    model, batch = case
    noise = np.random.default_rng(0).integers(FIRST, LAST, batch["targets"].shape, np.int32)
    noisy = batch | {"targets": np.where(batch["weights"] > 0, batch["targets"], noise)}
    assert (noisy["targets"] != batch["targets"]).any()
    mesh = tiny.one_device()
    (params, metrics), (noisy_params, noisy_metrics) = (
        stepped(model, batch, mesh),
        stepped(model, noisy, mesh),
    )
    assert metrics.objective == noisy_metrics.objective
    assert metrics.sums["accuracy"] == noisy_metrics.sums["accuracy"]
    assert tiny.equal(params, noisy_params)


def masked(folder, **changes) -> Config:
    base = runs.config(folder, model=replace(ENCODER, max_length=16), objective=MaskedConfig())
    return replace(base, **changes)


def entropy(text: str) -> float:
    """Of a text's bytes one by one, nats."""
    counts = np.array(list(Counter(text.encode()).values()))
    return float(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())


def test_a_masked_run_learns_and_every_command_reads_it(tmp_path, command):
    config = masked(
        tmp_path,
        steps=250,
        model=replace(ENCODER, max_length=32, d_model=64, d_ff=128),
        optimizer=AdamWConfig(learning_rate=4e-3, schedule=ScheduleConfig(warmup_steps=20)),
        evaluation=EvaluationConfig(every=0),
        log=LogConfig(every=50, display="none"),
    )
    config = replace(config, data=replace(config.data, batch_size=32, length=32))
    train(config)
    run = tmp_path / "run"
    (line,) = runs.metrics(run, "eval")
    assert line["loss"] < 0.8 * entropy((tmp_path / "text").read_text())
    assert line["bits_per_byte"] is None
    assert line["accuracy"] > 0.35
    for train_line in runs.metrics(run):
        assert train_line["bits_per_byte"] is None
        assert 0 <= train_line["accuracy"] <= 1
    # Every token is read, but where an epoch ends in the midst of a row.
    assert runs.metrics(run)[-1]["tokens"] == pytest.approx(250 * 32 * 32, rel=0.01)
    result = evaluate(run)
    assert result.score.loss_per_token == pytest.approx(line["loss"], abs=1e-4)
    assert result.score.tokens == line["heldout_tokens"]
    assert "of the hidden tokens" in str(result)
    code, out, _ = command("evaluate", str(run), "--json")
    printed = json.loads(out.splitlines()[-1])
    assert code == 0
    assert printed["bits_per_byte"] is None
    assert printed["accuracy"] == result.score.accuracy
    assert printed["intervals"].keys() == {"loss", "perplexity", "accuracy"}
    assert printed["intervals"]["accuracy"]["low"] < printed["accuracy"]
    assert "baselines" not in printed
    page = report(run).read_text()
    assert percent(result.score.accuracy) in page
    assert "xz -9e" not in page


@pytest.mark.once
def test_a_masked_run_resumes_as_if_never_stopped(tmp_path, monkeypatch):
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
        runs.write_text(tmp_path / name / "text")
    whole = masked(tmp_path / "whole")
    halves = replace(whole, run_dir=str(tmp_path / "halves" / "run"))
    train(whole)
    with monkeypatch.context() as patch:
        runs.stop_after_save(patch, 4)
        with pytest.raises(runs.Stop):
            train(halves)
    train(halves)
    expected, resumed = (runs.metrics(tmp_path / name / "run") for name in ("whole", "halves"))
    for line, expected_line in zip(resumed, expected, strict=True):
        for name in ("step", "loss", "accuracy", "gradient_norm", "tokens"):
            assert line[name] == expected_line[name]
    with pytest.raises(UserError, match=r"objective\.share"):
        train(replace(whole, steps=9, objective=MaskedConfig(share=0.3)))


@pytest.mark.once
@pytest.mark.parametrize("objective", [SPAN, MixtureConfig((SPAN, PrefixConfig()))])
def test_encoder_decoders_train_and_evaluate(tmp_path, objective):
    config = masked(
        tmp_path,
        steps=3,
        model=replace(BOTH, max_length=16),
        objective=objective,
        tokenizer=SentencePieceConfig(vocab_size=300),
    )
    train(config)
    (line,) = runs.metrics(tmp_path / "run", "eval")
    assert math.isfinite(line["loss"])
    assert evaluate(tmp_path / "run").score.tokens == line["heldout_tokens"]
