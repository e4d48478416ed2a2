"""Metrics with 95 % intervals from a percentile bootstrap, and tables beside them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llmjax.errors import UserError

RESAMPLES = 1000
SEED = 20260
MAX_BLOCK = 1 << 22
"""Numbers in a block of resampling weights, which bounds the memory."""


class Metric(NamedTuple):
    """One number that says how good predictions are.

    Attributes:
      name: such as "accuracy".
      value: over all examples.
      low, high: its 95 % interval, from a seeded bootstrap over examples.
      larger_is_better: what to aim for.
    """

    name: str
    value: float
    low: float
    high: float
    larger_is_better: bool = True


@dataclass(frozen=True)
class Metrics:
    """All metrics of a set of predictions.

    Attributes:
      metrics: the headline first; names are unique.
      examples: how many were evaluated.
      tables: name -> what single numbers cannot say, as plain JSON data; see each function.
      signature: how a published script reproduces the numbers; None where there is one way only.
    """

    metrics: tuple[Metric, ...]
    examples: int
    tables: Mapping[str, Any] = field(default_factory=dict)
    signature: str | None = None

    def headline(self) -> Metric:
        """The metric to judge by."""
        return self.metrics[0]

    def __getitem__(self, name: str) -> Metric:
        """The metric of that name; KeyError if there is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; numbers that are not finite become None."""
        result: dict[str, Any] = {
            "examples": self.examples,
            "metrics": {
                metric.name: {
                    "value": _finite(metric.value),
                    "low": _finite(metric.low),
                    "high": _finite(metric.high),
                    "larger_is_better": metric.larger_is_better,
                }
                for metric in self.metrics
            },
        }
        if self.tables:
            result["tables"] = dict(self.tables)
        if self.signature is not None:
            result["signature"] = self.signature
        return result


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, max_block: int = MAX_BLOCK
) -> np.ndarray:
    """The values of a statistic on examples resampled with replacement (Efron 1979).

    Args:
      statistic: weights float64 [B, N] (how often each example was drawn; rows add up to N) ->
        values [B] or [B, K]; NaN where it is not defined for a resample.
      count: N, the number of examples.
      max_block: most numbers in the weights of one call; the result does not depend on it.

    Returns:
      float64 [1000] or [1000, K]; the same for the same N and statistic.
    """
    blocks = _resample_weights(count, max_block)
    return np.concatenate([np.asarray(statistic(weights)) for weights in blocks])


def interval(values: np.ndarray, point: float) -> tuple[float, float]:
    """The middle 95 % of resampled values [B], undefined ones left out; (point, point) where all
    are undefined."""
    values = values[~np.isnan(values)]
    if not len(values):
        return point, point
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def metric(name: str, value: float, values: np.ndarray, larger_is_better: bool = True) -> Metric:
    """A metric from its value over all examples and its resampled values [B]."""
    return Metric(name, float(value), *interval(values, float(value)), larger_is_better)


def mean(name: str, values: np.ndarray, larger_is_better: bool = True) -> Metric:
    """The mean of one number per example [N], N >= 1."""
    return means({name: values}, larger_is_better)[0]


def means(columns: Mapping[str, np.ndarray], larger_is_better: bool = True) -> list[Metric]:
    """The means of several numbers per example, name -> [N], all on the same resamples."""
    table = np.stack([np.asarray(values, np.float64) for values in columns.values()], axis=1)
    resampled = bootstrap(lambda weights: weights @ table / len(table), len(table))
    return [
        metric(name, table[:, k].mean(), resampled[:, k], larger_is_better)
        for k, name in enumerate(columns)
    ]


def ratio(name: str, above: np.ndarray, below: np.ndarray, larger_is_better: bool = True) -> Metric:
    """sum(above) / sum(below) over examples [N]."""
    table = np.stack([np.asarray(above, np.float64), np.asarray(below, np.float64)], axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        first, second = (weights @ table).T
        return divide(first, second, np.nan)

    resampled = bootstrap(statistic, len(table))
    first, second = table.sum(0)
    return metric(name, first / second, resampled, larger_is_better)


def divide(above: np.ndarray, below: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """above / below where below is positive, else `otherwise`."""
    return np.divide(above, below, out=np.full_like(above, otherwise), where=below > 0)


def require_examples(count: int) -> None:
    """Raises UserError where there is nothing to evaluate."""
    if not count:
        raise UserError("metrics", "there are no examples to evaluate", "name non-empty tables")


def require_equal(targets: int, predictions: int) -> None:
    """Raises ValueError where targets and predictions differ in number: the caller's mistake."""
    if targets != predictions:
        raise ValueError(f"{targets} targets, but {predictions} predictions")


def _resample_weights(count: int, max_block: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(SEED)
    rows, left = max(1, max_block // count), RESAMPLES
    while left:
        size = min(rows, left)
        drawn = random.integers(0, count, (size, count))
        drawn += count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) * 1.0
        left -= size


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
