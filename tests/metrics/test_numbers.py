"""Correlations against scipy; preferences and similarity against known values."""

import math

import numpy as np
import pytest
from scipy import stats

from llmjax.errors import UserError
from llmjax.metrics.numbers import (
    order_and_groups,
    preference,
    regression,
    similarity,
    weighted_ranks,
)


def test_metrics_are_those_of_scipy():
    random = np.random.default_rng(0)
    truth = random.integers(1, 6, 300) * 1.0
    predicted = truth + random.normal(size=300)
    result = regression(truth, predicted)
    assert result.headline().name == "pearson"
    assert result["pearson"].value == pytest.approx(stats.pearsonr(truth, predicted).statistic)
    assert result["spearman"].value == pytest.approx(stats.spearmanr(truth, predicted).statistic)
    assert result["mean_squared_error"].value == pytest.approx(np.mean((truth - predicted) ** 2))
    assert result["mean_absolute_error"].value == pytest.approx(np.mean(abs(truth - predicted)))
    assert not result["mean_squared_error"].larger_is_better
    for metric in result.metrics:
        assert metric.low < metric.value < metric.high
    known = stats.pearsonr(truth, predicted).confidence_interval()
    assert (result["pearson"].low, result["pearson"].high) == pytest.approx(tuple(known), abs=0.02)


def testweighted_ranks_of_examples_that_are_drawn_many_times():
    random = np.random.default_rng(1)
    values = random.integers(0, 4, 12) * 1.0
    weights = random.multinomial(12, np.full(12, 1 / 12), 20).astype(float)
    ranks = weighted_ranks(weights, *order_and_groups(values))
    for row, result in zip(weights.astype(int), ranks, strict=True):
        drawn = np.repeat(np.arange(12), row)
        assert result[drawn] == pytest.approx(stats.rankdata(values[drawn]))


def test_constants_tell_nothing():
    result = regression(np.arange(5.0), np.full(5, 2.0))
    assert [result["pearson"].value, result["spearman"].value] == [0, 0]
    assert result["mean_squared_error"].value == 2
    assert regression(np.ones(1), np.ones(1))["pearson"].value == 0
    with pytest.raises(UserError, match="no examples"):
        regression(np.zeros(0), np.zeros(0))


def test_preference():
    result = preference(np.array([1.0, -2.0, 0.0, 3.0]))
    assert result["accuracy"].value == 0.625
    assert result["margin"].value == 0.5
    assert preference(np.zeros(3))["loss"].value == pytest.approx(math.log(2))
    assert np.isfinite(preference(np.array([-1e4]))["loss"].value)


def test_similarity():
    cosines = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8], [0.0, 0.1, 0.5]])
    result = similarity(cosines, scale=2.0)
    assert result["accuracy"].value == pytest.approx(2 / 3)
    assert result["mean_reciprocal_rank"].value == pytest.approx((1 + 1 / 3 + 1) / 3)
    exp = np.exp(2 * cosines)
    assert result["loss"].value == pytest.approx(-np.log(exp.diagonal() / exp.sum(1)).mean())
    expected = stats.spearmanr(cosines.ravel(), np.eye(3).ravel()).statistic
    assert result["spearman"].value == pytest.approx(expected)
    assert similarity(np.ones((4, 4)))["accuracy"].value == 0, "of equals the own one comes last"


def test_notes_compare_a_regression_with_the_training_mean():
    targets = np.arange(40.0)
    right = regression(targets, targets + 1, training_mean=19.5)
    assert right.notes() == [
        "always predicting the training mean, 19.5, has mean squared error 133.2 "
        "and mean absolute error 10"
    ]
    nearly = regression(targets, 19 + targets / 100, training_mean=19.5)
    assert nearly.notes()[1] == "the model predicts nearly one value: 19 to 19.39"
    constant = regression(targets, np.full(40, 2.0))
    assert constant.notes() == ["the model predicts 2 every time"]
    assert regression(np.ones(40), np.ones(40)).notes() == [], "the targets do not differ either"
