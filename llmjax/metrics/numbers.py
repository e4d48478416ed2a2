"""Metrics of regression, preference optimization and embedding similarity."""

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

NEARLY_CONSTANT = 0.05
"""Largest ratio of the standard deviations of predictions and targets that a remark names."""


def regression(
    targets: np.ndarray, predicted: np.ndarray, training_mean: float | None = None
) -> Metrics:
    """Evaluate regression: a number for each of N examples.

    Metrics: pearson and spearman (0 if either side is constant, where correlation is undefined),
    mean_squared_error, mean_absolute_error.

    Args:
      targets: float [N].
      predicted: float [N].
      training_mean: mean target of the training set, whose errors a remark states; None: no remark.

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

    def spearman_of(weights: np.ndarray) -> np.ndarray:
        return _correlation(
            weights, weighted_ranks(weights, *first), weighted_ranks(weights, *second)
        )

    x, y = targets - targets.mean(), predicted - predicted.mean()
    powers = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def pearson_of(weights: np.ndarray) -> np.ndarray:
        mean_x, mean_y, xx, yy, xy = (weights @ powers / count).T
        deviations = np.sqrt(np.maximum((xx - mean_x**2) * (yy - mean_y**2), 0))
        return divide(xy - mean_x * mean_y, deviations, np.nan)

    return Metrics(
        (
            metric("pearson", pearson, bootstrap(pearson_of, count)),
            metric("spearman", spearman, bootstrap(spearman_of, count)),
            mean("mean_squared_error", (targets - predicted) ** 2, larger_is_better=False),
            mean("mean_absolute_error", np.abs(targets - predicted), larger_is_better=False),
        ),
        count,
        remarks=_constant_remarks(targets, predicted, training_mean),
    )


def _constant_remarks(
    targets: np.ndarray, predicted: np.ndarray, training_mean: float | None
) -> tuple[str, ...]:
    """Say what always predicting the training mean gives, and whether the model does so."""
    remarks = []
    if training_mean is not None:
        errors = targets - training_mean
        remarks.append(
            f"always predicting the training mean, {training_mean:.4g}, has mean squared error "
            f"{np.mean(errors**2):.4g} and mean absolute error {np.mean(np.abs(errors)):.4g}"
        )
    if np.ptp(targets) > 0 and np.std(predicted) <= NEARLY_CONSTANT * np.std(targets):
        low, high = f"{predicted.min():.4g}", f"{predicted.max():.4g}"
        shown = f"{low} every time" if low == high else f"nearly one value: {low} to {high}"
        remarks.append(f"the model predicts {shown}")
    return tuple(remarks)


def preference(margins: np.ndarray) -> Metrics:
    """Evaluate preference pairs (DPO, arXiv:2305.18290, equation 7).

    Metrics: accuracy (fraction of pairs whose chosen answer has the larger reward; ties count
    half), loss (-log sigmoid of the margin), margin (mean).

    Args:
      margins: float [N], reward of the chosen minus that of the rejected answer: beta times the
        difference of their log-likelihoods, each relative to the reference model.

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
    """Evaluate retrieval of each text's partner among N candidates.

    Metrics: accuracy (fraction of texts whose partner is nearest), mean_reciprocal_rank, loss
    (cross-entropy over the N, in nats), spearman (of the cosines of all pairs with being partners;
    without an interval, since pairs are not independent). Among equal cosines the partner ranks
    last.

    Args:
      cosines: float [N, N]; candidate i is the partner of text i.
      scale: factor of the cosines in the loss.
      excluded: bool [N, N], False on the diagonal: candidates that text i is not compared with;
        None: compare with all.

    Raises:
      UserError: there are no texts.
    """
    from scipy import special, stats

    cosines = np.asarray(cosines, np.float64)
    require_examples(len(cosines))
    compared = np.ones(cosines.shape, bool) if excluded is None else ~excluded
    positives = cosines.diagonal()
    ranks = ((cosines >= positives[:, None]) & compared).sum(1)
    logits = np.where(compared, scale * cosines, -np.inf)
    nats = special.logsumexp(logits, axis=1) - scale * positives
    values, are_partners = cosines[compared], np.eye(len(cosines))[compared]
    flat = np.ptp(values) == 0 or np.ptp(are_partners) == 0
    rho = 0.0 if flat else float(stats.spearmanr(values, are_partners).statistic)
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
    """Pearson correlation [B] of x and y [B, N], weighted by [B, N]."""
    total = weights.sum(1, keepdims=True)
    x = x - (weights * x).sum(1, keepdims=True) / total
    y = y - (weights * y).sum(1, keepdims=True) / total
    covariance, x_variance, y_variance = (
        (weights * product).sum(1) for product in (x * y, x * x, y * y)
    )
    return divide(covariance, np.sqrt(x_variance * y_variance), np.nan)


def order_and_groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sort order of values [N], and the tie group of each sorted value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    groups = np.cumsum(np.r_[0, ordered[1:] != ordered[:-1]])
    return order, groups


def weighted_ranks(weights: np.ndarray, order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return ranks [B, N] of examples with multiplicities [B, N]; ties share their mean rank."""
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, groups]
    return ranks
