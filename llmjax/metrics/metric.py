"""Metrics with 95 % intervals from a percentile bootstrap, and tables."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from llmjax.errors import UserError

RESAMPLES = 1000
SEED = 20260
FEW_EXAMPLES = 30
"""Below this, a note says that there are few."""
MAX_BLOCK = 1 << 22
"""Maximum size of a block of resampling weights, which bounds memory."""


class Metric(NamedTuple):
    """A metric of a set of predictions.

    Attributes:
      name: such as "accuracy".
      value: over all examples.
      low, high: its 95 % interval, from a seeded bootstrap over examples.
      larger_is_better: its direction.
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
      examples: number of examples.
      tables: name -> details as plain JSON data; see each function.
      signature: sacrebleu's signatures; None for other metrics.
      remarks: sentences on what guessing would give, and on a model that predicts one thing.
    """

    metrics: tuple[Metric, ...]
    examples: int
    tables: Mapping[str, Any] = field(default_factory=dict)
    signature: str | None = None
    remarks: tuple[str, ...] = ()

    def headline(self) -> Metric:
        """Return the main metric."""
        return self.metrics[0]

    def notes(self) -> list[str]:
        """What a reader should know before believing the values: few examples, what guessing
        gives, a model that predicts one thing every time."""
        few = []
        if self.examples < FEW_EXAMPLES:
            plural = "" if self.examples == 1 else "s"
            few = [f"only {self.examples} example{plural}: too few to tell models apart"]
        return [*few, *self.remarks]

    def __getitem__(self, name: str) -> Metric:
        """Return the metric of that name; KeyError if there is none."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON data; non-finite numbers become None."""
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
        if notes := self.notes():
            result["notes"] = notes
        return result


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], count: int, max_block: int = MAX_BLOCK
) -> np.ndarray:
    """Compute a statistic on examples resampled with replacement (Efron 1979).

    Args:
      statistic: weights float64 [B, N] (multiplicity of each example; rows sum to N) -> values [B]
        or [B, K]; NaN where undefined for a resample.
      count: N, the number of examples.
      max_block: maximum size of the weights in one call; does not affect the result.

    Returns:
      float64 [1000] or [1000, K]; deterministic for the same N and statistic.
    """
    blocks = _resample_weights(count, max_block)
    return np.concatenate([np.asarray(statistic(weights)) for weights in blocks])


def interval(values: np.ndarray, point: float) -> tuple[float, float]:
    """Return the central 95 % of resampled values [B], without NaN; (point, point) if all are
    NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return point, point
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def metric(name: str, value: float, values: np.ndarray, larger_is_better: bool = True) -> Metric:
    """Build a metric from its value over all examples and its resampled values [B]."""
    return Metric(name, float(value), *interval(values, float(value)), larger_is_better)


def mean(name: str, values: np.ndarray, larger_is_better: bool = True) -> Metric:
    """Average one number per example [N], N >= 1."""
    return means({name: values}, larger_is_better)[0]


def means(columns: Mapping[str, np.ndarray], larger_is_better: bool = True) -> list[Metric]:
    """Average several numbers per example, name -> [N], on the same resamples."""
    table = np.stack([np.asarray(values, np.float64) for values in columns.values()], axis=1)
    resampled = bootstrap(lambda weights: weights @ table / len(table), len(table))
    return [
        metric(name, table[:, k].mean(), resampled[:, k], larger_is_better)
        for k, name in enumerate(columns)
    ]


def ratio(
    name: str, numerator: np.ndarray, denominator: np.ndarray, larger_is_better: bool = True
) -> Metric:
    """Compute sum(numerator) / sum(denominator) over examples [N]."""
    columns = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    table = np.stack(columns, axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        first, second = (weights @ table).T
        return divide(first, second, np.nan)

    resampled = bootstrap(statistic, len(table))
    first, second = table.sum(0)
    return metric(name, first / second, resampled, larger_is_better)


def divide(numerator: np.ndarray, denominator: np.ndarray, default: float = 0.0) -> np.ndarray:
    """Divide where the denominator is positive, else return `default`."""
    out = np.full_like(numerator, default)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def require_examples(count: int) -> None:
    """Raise UserError if there is nothing to evaluate."""
    if not count:
        raise UserError("metrics", "there are no examples to evaluate", "name non-empty tables")


def require_equal(targets: int, predictions: int) -> None:
    """Raise ValueError, a caller's mistake, if targets and predictions differ in number."""
    if targets != predictions:
        raise ValueError(f"{targets} targets, but {predictions} predictions")


def _resample_weights(count: int, max_block: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(SEED)
    rows, remaining = max(1, max_block // count), RESAMPLES
    while remaining:
        size = min(rows, remaining)
        drawn = random.integers(0, count, (size, count))
        drawn += count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) * 1.0
        remaining -= size


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
