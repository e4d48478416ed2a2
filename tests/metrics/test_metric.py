"""Intervals: seeded, centred on the metric, as wide as in theory."""

import json
import math

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.metrics.labels import classification
from llmjax.metrics.metric import Metric, Metrics, bootstrap, interval, mean, means


def test_every_draw_has_as_many_examples():
    drawn = bootstrap(lambda weights: np.stack([weights.sum(1), weights.max(1)], 1), 7)
    assert drawn.shape == (1000, 2)
    assert (drawn[:, 0] == 7).all()
    assert (drawn[:, 1] > 1).any()


def test_the_interval_of_a_share_is_as_wide_as_its_standard_error():
    values = np.arange(2500) % 4 == 0
    result = mean("share", values)
    error = math.sqrt(0.25 * 0.75 / 2500)
    assert result.value == 0.25
    assert result.low == pytest.approx(0.25 - 1.96 * error, abs=0.2 * error)
    assert result.high == pytest.approx(0.25 + 1.96 * error, abs=0.2 * error)
    assert mean("share", values) == result, "seeded"


def test_a_thousand_resamples_whatever_fits_in_a_block():
    values = np.random.default_rng(0).random(300)
    point = mean("x", values)
    sizes = []

    def statistic(weights):
        sizes.append(weights.size)
        return weights @ values / 300

    blocks = bootstrap(statistic, 300, max_block=7000)
    assert max(sizes) <= 7000
    assert len(blocks) == 1000
    assert interval(blocks, point.value) == pytest.approx((point.low, point.high), abs=1e-12)


def test_what_is_undefined_for_a_draw_is_left_out():
    values = np.array([np.nan, 1.0, 2.0, 3.0])
    assert interval(values, 2.0) == pytest.approx((1.05, 2.95))
    assert interval(values[:1], 2.0) == (2.0, 2.0)


def test_columns_are_drawn_alike():
    values = np.random.default_rng(0).random(50)
    first, second = means({"a": values, "b": 1 - values})
    assert first.low == pytest.approx(1 - second.high)


def test_plain_data():
    metrics = (Metric("a", 0.5, 0.25, math.nan), Metric("loss", math.inf, 0.0, 1.0, False))
    result = Metrics(metrics, 3, {"labels": []}, "sig")
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == {
        "examples": 3,
        "metrics": {
            "a": {"value": 0.5, "low": 0.25, "high": None, "larger_is_better": True},
            "loss": {"value": None, "low": 0.0, "high": 1.0, "larger_is_better": False},
        },
        "tables": {"labels": []},
        "signature": "sig",
        "notes": ["only 3 examples: too few to tell models apart"],
    }
    assert result.headline().name == "a"
    assert result["loss"].high == 1.0
    with pytest.raises(KeyError, match="bleu"):
        result["bleu"]


def test_other_numbers_of_predictions_are_refused():
    with pytest.raises(ValueError, match="2 targets, but 3 predictions"):
        classification(("a",), np.zeros(2, int), np.ones((3, 1)))
    with pytest.raises(UserError, match="no examples to evaluate"):
        classification(("a",), np.zeros(0, int), np.ones((0, 1)))
