"""The dial: what follows from a depth."""

from dataclasses import replace

import pytest

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import BytesConfig
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.parametrization import CompleteP
from llmjax.optimizers.standard import AdamWConfig
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config
from llmjax.scaling.dial import BATCH_EXPONENT, at_depth, size_of

BASE = Config(
    steps=1000,
    model=ModelConfig(d_model=128, num_decoder_layers=4, num_heads=8, num_kv_heads=4, d_ff=384),
    tokenizer=BytesConfig(),
    data=DataConfig(batch_size=64, length=128),
    optimizer=AdamWConfig(learning_rate=1e-2, schedule=ScheduleConfig("wsd", 100)),
)


def tokens(config: Config) -> int:
    return config.steps * config.data.batch_size * config.data.length


def test_its_own_depth_changes_nothing():
    assert at_depth(BASE, 4) is BASE


@pytest.mark.parametrize("depth", [1, 2, 3, 6, 8, 12])
def test_all_follows_from_the_depth(depth):
    config = at_depth(BASE, depth)
    model, size, base = config.model, size_of(config), size_of(BASE)
    assert model.num_decoder_layers == depth
    assert model.head_width == 16
    assert model.num_heads == 2 * model.kv_heads
    assert model.d_model == pytest.approx(32 * depth, abs=32)
    assert model.d_ff % 64 == 0
    assert tokens(config) / size.parameters == pytest.approx(
        tokens(BASE) / base.parameters, rel=0.02
    )
    grown = tokens(config) / tokens(BASE)
    assert config.data.batch_size % 32 == 0
    assert config.data.batch_size == pytest.approx(64 * grown**BATCH_EXPONENT, abs=17)
    rates = [c.optimizer.learning_rate * c.optimizer.weight_decay * c.steps for c in (BASE, config)]
    assert rates[1] == pytest.approx(rates[0], rel=1e-3)
    warmup = config.optimizer.schedule.warmup_steps / config.steps
    assert warmup == pytest.approx(0.1, rel=0.1)
    validate(config)


def test_the_learning_rate_falls_with_the_width_unless_the_parametrization_does():
    width = at_depth(BASE, 16).model.d_model / 128
    batch = at_depth(BASE, 16).data.batch_size / 64
    standard = at_depth(BASE, 16).optimizer.learning_rate
    assert standard == pytest.approx(1e-2 * (batch / width) ** 0.5, rel=1e-3)
    complete = at_depth(replace(BASE, parametrization=CompleteP(128, 4)), 16)
    assert complete.optimizer.learning_rate == pytest.approx(1e-2 * batch**0.5, rel=1e-3)


def test_rows_of_a_batch_stay_a_multiple_of_the_microbatches():
    parts = replace(BASE, optimizer=replace(BASE.optimizer, accumulate=64))
    assert at_depth(parts, 6).data.batch_size % 64 == 0


@pytest.mark.parametrize(
    ("config", "depth", "problem"),
    [
        (BASE, 0, "must be at least 1"),
        (replace(BASE, epochs=1.0), 6, "trained for a number of steps"),
        (replace(BASE, model=replace(BASE.model, num_encoder_layers=2)), 6, "has both"),
    ],
)
def test_what_the_rules_do_not_cover_is_refused(config, depth, problem):
    with pytest.raises(UserError, match=problem):
        at_depth(config, depth)
