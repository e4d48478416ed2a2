"""Fits of scaling laws to finished runs, with bootstrap intervals.

The loss law is fitted as Besiroglu et al. (2024, arXiv:2404.10102) repeat Hoffmann et al.: Huber
loss of the logarithms, summed (with a mean, optimizers stop early), from many starts.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy import optimize

from llmjax.errors import UserError
from llmjax.scaling.laws import Floats, LossLaw, PowerLaw, RepetitionLaw

DELTA = 1e-3
"""Residuals of the logarithm above this count linearly (arXiv:2203.15556, appendix D.3)."""
STARTS = 24
"""Starts that are followed, those of least error among the grid's."""
BOOTSTRAPS = 200
COVERAGE = 0.95
"""Of intervals."""

GRID = tuple(
    np.array(start)
    for start in itertools.product(
        (-1.0, -0.5, 0.0, 0.5, 1.0),  # log E
        (0.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0),  # log A
        (0.1, 0.3, 0.5, 0.8, 1.2, 1.6),  # alpha
        (0.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0),  # log B
        (0.1, 0.3, 0.5, 0.8, 1.2, 1.6),  # beta
    )
)


@dataclass(frozen=True)
class Points:
    """Finished runs: arrays of equal length."""

    parameters: Floats
    tokens: Floats
    loss: Floats
    """As measured; above 0."""

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Points":
        """Those of these indices, as often as they occur."""
        return Points(self.parameters[indices], self.tokens[indices], self.loss[indices])


Law = TypeVar("Law")


@dataclass(frozen=True)
class Fit(Generic[Law]):
    """A law, and the laws of bootstrap samples of the points."""

    law: Law
    samples: tuple[Law, ...]
    residuals: Floats
    """log(measured / fitted) of each point."""

    def interval(self, value: Callable[[Law], float]) -> tuple[float, float]:
        """The bootstrap interval of something computed from the law."""
        values = [value(sample) for sample in self.samples]
        return percentiles(np.array(values))


def percentiles(values: Floats) -> tuple[float, float]:
    """The middle `COVERAGE` of some values."""
    low, high = np.quantile(values, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def fit_loss_law(points: Points, seed: int = 0, bootstraps: int = BOOTSTRAPS) -> Fit[LossLaw]:
    """Fits E, A, alpha, B and beta.

    Args:
      points: at least 6, of several sizes and several numbers of tokens.
      seed: of the bootstrap.
      bootstraps: samples for intervals.

    Raises:
      UserError: there are too few points, or all have one size or one number of tokens.
    """
    _check(points)
    # Centered logarithms make A and alpha, which trade off, nearly independent.
    center = np.log(points.parameters).mean(), np.log(points.tokens).mean()
    starts = [_shifted(start, center) for start in GRID]
    errors = [_huber(_residuals(start, points, center)) for start in starts]
    found = _minimum([starts[i] for i in np.argsort(errors)[:STARTS]], points, center)
    law = _law(found, center)
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(bootstraps):
        sample = points.take(_resample(points, generator))
        samples.append(_law(_minimum([found], sample, center), center))
    residuals = np.log(points.loss) - np.log(law.loss(points.parameters, points.tokens))
    return Fit(law, tuple(samples), residuals)


def _check(points: Points) -> None:
    sizes, amounts = len(set(points.parameters)), len(set(points.tokens))
    if len(points) < 6 or sizes < 2 or amounts < 2:
        raise UserError(
            "the loss law",
            f"has 5 unknowns, and there are {len(points)} runs of {sizes} sizes and {amounts} "
            "numbers of tokens",
            "train at least 6, of several sizes and several numbers of tokens",
        )
    if not (np.isfinite(points.loss).all() and (points.loss > 0).all()):
        raise UserError("the loss law", "a loss is not a positive number", "leave that run out")


def _resample(points: Points, generator: np.random.Generator) -> np.ndarray:
    """Indices drawn with replacement, until they can be fitted."""
    while True:
        indices = generator.integers(len(points), size=len(points))
        sample = points.take(indices)
        if len(set(sample.parameters)) > 1 and len(set(sample.tokens)) > 1:
            return indices


def _shifted(start: np.ndarray, center: tuple[float, float]) -> np.ndarray:
    """log E, log A, alpha, log B, beta -> the same with factors at the center of the points."""
    log_e, log_a, alpha, log_b, beta = start
    return np.array([log_e, log_a - alpha * center[0], alpha, log_b - beta * center[1], beta])


def _law(found: np.ndarray, center: tuple[float, float]) -> LossLaw:
    log_e, log_a, alpha, log_b, beta = found
    factors = np.exp([log_e, log_a + alpha * center[0], log_b + beta * center[1]])
    return LossLaw(
        float(factors[0]), float(factors[1]), float(alpha), float(factors[2]), float(beta)
    )


def _residuals(found: np.ndarray, points: Points, center: tuple[float, float]) -> Floats:
    """log(law / measured) of each point."""
    return np.asarray(_log_sum(found, points, center)[0] - np.log(points.loss))


def _jacobian(found: np.ndarray, points: Points, center: tuple[float, float]) -> Floats:
    """The derivatives of the residuals, [points, 5]."""
    _, shares, n, d = _log_sum(found, points, center)
    return np.stack([shares[0], shares[1], -n * shares[1], shares[2], -d * shares[2]], 1)


def _log_sum(
    found: np.ndarray, points: Points, center: tuple[float, float]
) -> tuple[Floats, Floats, Floats, Floats]:
    """log L of each point, the shares of its three terms, and its centered log N and log D."""
    log_e, log_a, alpha, log_b, beta = found
    n, d = np.log(points.parameters) - center[0], np.log(points.tokens) - center[1]
    terms = np.stack([np.full_like(n, log_e), log_a - alpha * n, log_b - beta * d])
    top = terms.max(0)
    shares = np.exp(terms - top)
    total = shares.sum(0)
    return top + np.log(total), shares / total, n, d


def _huber(residuals: Floats) -> float:
    size = np.abs(residuals)
    return float(np.where(size <= DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum())


def _minimum(
    starts: Sequence[np.ndarray], points: Points, center: tuple[float, float]
) -> np.ndarray:
    """The values of least error that are reached from any start."""
    bounds = ([-12, -30, 1e-3, -30, 1e-3], [6, 30, 4, 30, 4])
    results = [
        optimize.least_squares(
            _residuals,
            np.clip(start, *bounds),
            _jacobian,
            bounds,
            args=(points, center),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
            xtol=1e-10,
            ftol=1e-10,
            gtol=1e-12,
            max_nfev=200,
        )
        for start in starts
    ]
    best: np.ndarray = min(results, key=lambda result: result.cost).x
    return best


def fit_repetition(points: Points, unique: Floats, law: LossLaw) -> RepetitionLaw:
    """Fits what repeated tokens are worth, with the loss law of those read once given.

    Args:
      points: runs, of which some read tokens repeatedly.
      unique: different tokens of each.
      law: of runs that read each token once.

    Raises:
      UserError: no run read a token twice.
    """
    if not (points.tokens > unique).any():
        raise UserError("the law of repeated data", "no run read its data twice", "train longer")

    def error(log_half_life: float) -> float:
        worth = RepetitionLaw(float(np.exp(log_half_life)))
        tokens = worth.effective_tokens(points.tokens, unique)
        residual = np.log(law.loss(points.parameters, tokens)) - np.log(points.loss)
        return float(np.abs(residual).sum())

    grid = np.linspace(np.log(0.1), np.log(1e4), 64)
    start = int(np.argmin([error(x) for x in grid]))
    low, high = grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)]
    found = optimize.minimize_scalar(error, bounds=(low, high), method="bounded")
    return RepetitionLaw(float(np.exp(found.x)))


def fit_power_law(x: Floats, y: Floats) -> PowerLaw:
    """Fits y = factor x^exponent by least squares of the logarithms; x and y are above 0."""
    exponent, log_factor = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(float(np.exp(log_factor)), float(exponent))


@dataclass(frozen=True)
class Parabola:
    """Runs of one budget: loss against log parameters (arXiv:2203.15556, section 3.2)."""

    flops: float
    """Of each run."""
    coefficients: tuple[float, float, float]
    """Of x^2, x and 1, with x = log N."""

    @property
    def optimal_parameters(self) -> float:
        """N at the lowest point."""
        curvature, slope, _ = self.coefficients
        return float(np.exp(-slope / (2 * curvature)))

    def loss(self, parameters: Floats) -> Floats:
        """The fitted loss."""
        return np.asarray(np.polyval(self.coefficients, np.log(parameters)), np.float64)


def fit_parabola(flops: float, parameters: Floats, loss: Floats) -> Parabola | None:
    """Fits at least 3 runs of one budget; None: they have no lowest point among them."""
    if len(set(parameters)) < 3:
        return None
    coefficients = np.polyfit(np.log(parameters), loss, 2)
    a, b, c = (float(value) for value in coefficients)
    found = Parabola(flops, (a, b, c))
    inside = parameters.min() < found.optimal_parameters < parameters.max()
    return found if a > 0 and inside else None
