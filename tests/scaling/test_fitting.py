"""Fits: known laws come back within their intervals, from noisy points."""

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.scaling.fitting import (
    Points,
    fit_loss_law,
    fit_parabola,
    fit_power_law,
    fit_repetition,
)
from llmjax.scaling.laws import LossLaw, RepetitionLaw

CHINCHILLA = LossLaw(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
"""As fitted by Besiroglu et al. 2024, arXiv:2404.10102, table 1."""
SMALL = LossLaw(1.1, 60.0, 0.35, 400.0, 0.4)
"""In bits per byte, of models of a million parameters."""


def points(law: LossLaw, sizes, ratios, noise: float, seed: int = 0) -> Points:
    """Runs of each size with so many tokens per parameter."""
    n, ratio = (x.ravel() for x in np.meshgrid(sizes, ratios))
    factors = np.exp(noise * np.random.default_rng(seed).standard_normal(n.size))
    return Points(n, n * ratio, law.loss(n, n * ratio) * factors)


@pytest.mark.parametrize(
    ("law", "sizes"),
    [(CHINCHILLA, np.geomspace(5e7, 1e10, 12)), (SMALL, np.geomspace(2e5, 4e6, 6))],
    ids=["chinchilla", "small"],
)
def test_a_law_without_noise_comes_back(law, sizes):
    fit = fit_loss_law(points(law, sizes, [3, 10, 30, 100], 0.0), bootstraps=2)
    np.testing.assert_allclose(fit.law.values(), law.values(), rtol=2e-2)
    np.testing.assert_allclose(fit.residuals, 0, atol=1e-5)
    big = 10 * sizes.max()
    assert fit.law.loss(big, 20 * big) == pytest.approx(law.loss(big, 20 * big), rel=1e-3)


def test_with_noise_the_truth_is_in_the_intervals():
    fit = fit_loss_law(
        points(CHINCHILLA, np.geomspace(5e7, 1e10, 12), [3, 10, 30, 100], 5e-3), bootstraps=60
    )
    for index, truth in enumerate(CHINCHILLA.values()):
        low, high = fit.interval(lambda law, index=index: law.values()[index])
        assert low < truth < high
    low, high = fit.interval(lambda law: law.optimal_exponent)
    assert low < CHINCHILLA.optimal_exponent < high
    assert high - low < 0.1


def test_the_optimum_is_the_lowest_loss_of_its_budget():
    parameters, tokens = CHINCHILLA.optimum(1e21)
    assert 6 * parameters * tokens == pytest.approx(1e21)
    near = parameters * np.linspace(0.5, 2, 1001)
    losses = CHINCHILLA.loss(near, 1e21 / 6 / near)
    assert near[np.argmin(losses)] == pytest.approx(parameters, rel=2e-3)


def test_repeated_tokens_are_worth_less():
    law = RepetitionLaw(15.4)
    assert law.effective_tokens(5.0, 10.0) == 5
    assert law.effective_tokens(10.0, 10.0) == 10
    assert 19.5 < law.effective_tokens(20.0, 10.0) < 20
    assert law.effective_tokens(1e9, 10.0) == pytest.approx(164)
    n, d, unique = np.full(6, 1e6), np.geomspace(1e6, 1e9, 6), np.full(6, 1e6)
    measured = Points(n, d, SMALL.loss(n, law.effective_tokens(d, unique)))
    assert fit_repetition(measured, unique, SMALL).half_life == pytest.approx(15.4, rel=1e-2)


def test_a_parabola_finds_the_optimal_size_of_a_budget():
    best, _ = SMALL.optimum(1e15)
    sizes = best * np.geomspace(0.5, 2, 7)
    found = fit_parabola(1e15, sizes, SMALL.loss(sizes, 1e15 / 6 / sizes))
    assert found.optimal_parameters == pytest.approx(best, rel=0.05)
    beyond = 4 * sizes
    assert fit_parabola(1e15, beyond, SMALL.loss(beyond, 1e15 / 6 / beyond)) is None


def test_a_power_law_comes_back():
    x = np.geomspace(1, 1e6, 7)
    law = fit_power_law(x, 0.03 * x**0.38)
    assert (law.factor, law.exponent) == (pytest.approx(0.03), pytest.approx(0.38))
    assert law(1e7) == pytest.approx(0.03 * 1e7**0.38)


@pytest.mark.parametrize(
    ("sizes", "ratios"), [([1e6], [1, 2, 3, 4, 5, 6]), ([1e6, 2e6], [1, 2])], ids=["one", "few"]
)
def test_too_little_is_refused(sizes, ratios):
    with pytest.raises(UserError, match="train at least 6"):
        fit_loss_law(points(SMALL, sizes, ratios, 0.0))
