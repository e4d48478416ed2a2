"""Numbers told for numbers: correlations and errors."""

import numpy as np

from llmjax.metrics.bootstrap import bootstrap, mean, measure
from llmjax.metrics.figures import Measures, require_equal, require_examples


def regression(truth: np.ndarray, told: np.ndarray) -> Measures:
    """A number for each of N examples.

    Figures: pearson and spearman (0 where either side is constant, and correlation therefore not
    defined), mean_squared_error, mean_absolute_error.

    Args:
      truth: float [N].
      told: float [N].

    Raises:
      UserError: there are no examples.
    """
    from scipy import stats

    truth, told = np.asarray(truth, np.float64), np.asarray(told, np.float64)
    require_equal(len(truth), len(told))
    require_examples(len(truth))
    flat = len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(told) == 0
    pearson = 0.0 if flat else stats.pearsonr(truth, told).statistic
    spearman = 0.0 if flat else stats.spearmanr(truth, told).statistic
    count, first, second = len(truth), _codes(truth), _codes(told)

    def ranked(weights: np.ndarray) -> np.ndarray:
        return _correlation(weights, _ranks(weights, *first), _ranks(weights, *second))

    x, y = truth - truth.mean(), told - told.mean()
    powers = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def plain(weights: np.ndarray) -> np.ndarray:
        of_x, of_y, xx, yy, xy = (weights @ powers / count).T
        below = np.sqrt(np.maximum((xx - of_x**2) * (yy - of_y**2), 0))
        return np.divide(xy - of_x * of_y, below, out=np.full_like(xy, np.nan), where=below > 0)

    return Measures(
        (
            measure("pearson", pearson, bootstrap(plain, count)),
            measure("spearman", spearman, bootstrap(ranked, count)),
            mean("mean_squared_error", (truth - told) ** 2, larger_is_better=False),
            mean("mean_absolute_error", np.abs(truth - told), larger_is_better=False),
        ),
        count,
    )


def _correlation(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation [B] of x and y [B, N], weighted by [B, N]."""
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    both, of_x, of_y = ((weights * product).sum(1) for product in (x * y, x * x, y * y))
    below = np.sqrt(of_x * of_y)
    return np.divide(both, below, out=np.full_like(both, np.nan), where=below > 0)


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of values [N], and of each sorted place the group of equal values it is in."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    groups = np.cumsum(np.r_[0, ordered[1:] != ordered[:-1]])
    return order, groups


def _ranks(weights: np.ndarray, order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ranks [B, N] of examples that are drawn weights [B, N] times; ties share their mean rank."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, groups]
    return ranks
