"""Percentile bootstrap: how far a figure would move with other examples of the same kind."""

from collections.abc import Callable, Iterator

import numpy as np

from llmjax.metrics.figures import Measure

RESAMPLES = 1000
SEED = 20260
AT_ONCE = 1 << 22  # numbers of a block of weights


def bootstrap(statistic: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """The values of a statistic on examples drawn again, with replacement (Efron 1979).

    Args:
      statistic: weights float64 [B, N] (how often each example was drawn; rows add up to N) ->
        values [B] or [B, K]; NaN where it is not defined for a draw.
      count: N, of the examples.

    Returns:
      float64 [1000] or [1000, K]; the same for the same N and statistic.
    """
    return np.concatenate([np.asarray(statistic(weights)) for weights in _weights(count)])


def interval(values: np.ndarray, whole: float) -> tuple[float, float]:
    """The middle 95 % of resampled values [B], undefined ones left out; (whole, whole) where all
    are undefined."""
    values = values[~np.isnan(values)]
    if not len(values):
        return whole, whole
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def measure(name: str, value: float, values: np.ndarray, larger_is_better: bool = True) -> Measure:
    """A figure from its value over all examples and its resampled values [B]."""
    return Measure(name, float(value), *interval(values, float(value)), larger_is_better)


def mean(name: str, values: np.ndarray, larger_is_better: bool = True) -> Measure:
    """The mean of a number per example [N], N >= 1."""
    return means({name: values}, larger_is_better)[0]


def means(columns: dict[str, np.ndarray], larger_is_better: bool = True) -> list[Measure]:
    """The means of several numbers per example, all drawn alike: name -> [N]."""
    table = np.stack([np.asarray(values, np.float64) for values in columns.values()], axis=1)
    drawn = bootstrap(lambda weights: weights @ table / len(table), len(table))
    return [
        measure(name, table[:, k].mean(), drawn[:, k], larger_is_better)
        for k, name in enumerate(columns)
    ]


def _weights(count: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(SEED)
    rows, left = max(1, AT_ONCE // count), RESAMPLES
    while left:
        size = min(rows, left)
        drawn = random.integers(0, count, (size, count))
        drawn += count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) * 1.0
        left -= size
