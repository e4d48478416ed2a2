"""Numbers: regression, reward margins of preferences, cosines of texts that belong together."""

import numpy as np

from llmjax.metrics.metric import (
    Metric,
    Metrics,
    bootstrap,
    divide,
    mean,
    metric,
    require_equal,
    require_examples,
)


def regression(targets: np.ndarray, predicted: np.ndarray) -> Metrics:
    """A number for each of N examples.

    Metrics: pearson and spearman (0 where either side is constant, and correlation therefore not
    defined), mean_squared_error, mean_absolute_error.

    Args:
      targets: float [N].
      predicted: float [N].

    Raises:
      UserError: there are no examples.
    """
    from scipy import stats

    targets, predicted = np.asarray(targets, np.float64), np.asarray(predicted, np.float64)
    require_equal(len(targets), len(predicted))
    require_examples(len(targets))
    flat = len(targets) < 2 or np.ptp(targets) == 0 or np.ptp(predicted) == 0
    pearson = 0.0 if flat else stats.pearsonr(targets, predicted).statistic
    spearman = 0.0 if flat else stats.spearmanr(targets, predicted).statistic
    count, first, second = len(targets), order_and_groups(targets), order_and_groups(predicted)

    def ranked(weights: np.ndarray) -> np.ndarray:
        return _correlation(
            weights, weighted_ranks(weights, *first), weighted_ranks(weights, *second)
        )

    x, y = targets - targets.mean(), predicted - predicted.mean()
    powers = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def plain(weights: np.ndarray) -> np.ndarray:
        of_x, of_y, xx, yy, xy = (weights @ powers / count).T
        below = np.sqrt(np.maximum((xx - of_x**2) * (yy - of_y**2), 0))
        return divide(xy - of_x * of_y, below, np.nan)

    return Metrics(
        (
            metric("pearson", pearson, bootstrap(plain, count)),
            metric("spearman", spearman, bootstrap(ranked, count)),
            mean("mean_squared_error", (targets - predicted) ** 2, larger_is_better=False),
            mean("mean_absolute_error", np.abs(targets - predicted), larger_is_better=False),
        ),
        count,
    )


def preference(margins: np.ndarray) -> Metrics:
    """Pairs of answers, one of which is better (DPO, arXiv:2305.18290, equation 7).

    Metrics: accuracy (share of pairs whose better answer has the larger reward; half a point where
    both are equal), loss (-log sigmoid of the margin), margin (mean).

    Args:
      margins: float [N], reward of the better answer less that of the worse: beta times the
        difference of their log-likelihoods, each less that of the reference model.

    Raises:
      UserError: there are no pairs.
    """
    margins = np.asarray(margins, np.float64)
    require_examples(len(margins))
    return Metrics(
        (
            mean("accuracy", (np.sign(margins) + 1) / 2),
            mean("loss", np.logaddexp(0.0, -margins), larger_is_better=False),
            mean("margin", margins),
        ),
        len(margins),
    )


def similarity(
    cosines: np.ndarray, scale: float = 1.0, excluded: np.ndarray | None = None
) -> Metrics:
    """Texts that each belong to one of N others: is it the nearest of all?

    Metrics: accuracy (share of texts whose own is nearest), mean_reciprocal_rank, loss
    (cross-entropy over the N, in nats), spearman (of the cosines of all pairs with whether they
    belong together; without an interval, for pairs are not drawn one by one). Of equal cosines the
    own one comes last.

    Args:
      cosines: float [N, N]; text i belongs to text i of the others.
      scale: factor of the cosines in the loss.
      excluded: bool [N, N], False on the diagonal: which of the others text i is not compared with;
        None: it is compared with all.

    Raises:
      UserError: there are no texts.
    """
    from scipy import special, stats

    cosines = np.asarray(cosines, np.float64)
    require_examples(len(cosines))
    compared = np.ones(cosines.shape, bool) if excluded is None else ~excluded
    own = cosines.diagonal()
    ranks = ((cosines >= own[:, None]) & compared).sum(1)
    logits = np.where(compared, scale * cosines, -np.inf)
    nats = special.logsumexp(logits, axis=1) - scale * own
    among, together = cosines[compared], np.eye(len(cosines))[compared]
    flat = np.ptp(among) == 0 or np.ptp(together) == 0
    rho = 0.0 if flat else float(stats.spearmanr(among, together).statistic)
    return Metrics(
        (
            mean("accuracy", ranks == 1),
            mean("mean_reciprocal_rank", 1 / ranks),
            mean("loss", nats, larger_is_better=False),
            Metric("spearman", rho, rho, rho),
        ),
        len(cosines),
    )


def _correlation(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation [B] of x and y [B, N], weighted by [B, N]."""
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    both, of_x, of_y = ((weights * product).sum(1) for product in (x * y, x * x, y * y))
    below = np.sqrt(of_x * of_y)
    return divide(both, below, np.nan)


def order_and_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of values [N], and of each sorted place the group of equal values it is in."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    groups = np.cumsum(np.r_[0, ordered[1:] != ordered[:-1]])
    return order, groups


def weighted_ranks(weights: np.ndarray, order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Ranks [B, N] of examples that are drawn weights [B, N] times; ties share their mean rank."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, groups]
    return ranks
