"""Correlations against scipy."""

import numpy as np
import pytest
from scipy import stats

from llmjax.errors import UserError
from llmjax.metrics.numbers import _codes, _ranks, regression


def test_figures_are_those_of_scipy():
    random = np.random.default_rng(0)
    truth = random.integers(1, 6, 300) * 1.0
    told = truth + random.normal(size=300)
    found = regression(truth, told)
    assert found.headline().name == "pearson"
    assert found["pearson"].value == pytest.approx(stats.pearsonr(truth, told).statistic)
    assert found["spearman"].value == pytest.approx(stats.spearmanr(truth, told).statistic)
    assert found["mean_squared_error"].value == pytest.approx(np.mean((truth - told) ** 2))
    assert found["mean_absolute_error"].value == pytest.approx(np.mean(abs(truth - told)))
    assert not found["mean_squared_error"].larger_is_better
    for figure in found.figures:
        assert figure.low < figure.value < figure.high
    known = stats.pearsonr(truth, told).confidence_interval()
    assert (found["pearson"].low, found["pearson"].high) == pytest.approx(tuple(known), abs=0.02)


def test_ranks_of_examples_that_are_drawn_many_times():
    random = np.random.default_rng(1)
    values = random.integers(0, 4, 12) * 1.0
    weights = random.multinomial(12, np.full(12, 1 / 12), 20).astype(float)
    ranks = _ranks(weights, *_codes(values))
    for row, found in zip(weights.astype(int), ranks, strict=True):
        drawn = np.repeat(np.arange(12), row)
        assert found[drawn] == pytest.approx(stats.rankdata(values[drawn]))


def test_constants_tell_nothing():
    found = regression(np.arange(5.0), np.full(5, 2.0))
    assert [found["pearson"].value, found["spearman"].value] == [0, 0]
    assert found["mean_squared_error"].value == 2
    assert regression(np.ones(1), np.ones(1))["pearson"].value == 0
    with pytest.raises(UserError, match="no examples"):
        regression(np.zeros(0), np.zeros(0))
