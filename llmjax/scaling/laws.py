"""Scaling laws: loss as a function of parameters and tokens, and what is optimal under them."""

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FLOPS_PER_PARAMETER = 6.0
"""FLOPs of training per parameter and token: two forward, four backward (arXiv:2001.08361, table 1,
without attention)."""


@dataclass(frozen=True)
class LossLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv:2203.15556, equation 2).

    N counts parameters and D tokens. L has the unit of the losses it was fitted to, whose zero must
    be a perfect prediction: nats per token or bits per byte.
    """

    irreducible: float
    """E: what remains with infinitely many of both."""
    parameter_factor: float
    """A."""
    parameter_exponent: float
    """alpha."""
    token_factor: float
    """B."""
    token_exponent: float
    """beta."""

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Floats:
        """The loss of models of so many parameters after so many different tokens; broadcasts."""
        n, d = np.asarray(parameters, np.float64), np.asarray(tokens, np.float64)
        return np.asarray(
            self.irreducible
            + self.parameter_factor * n**-self.parameter_exponent
            + self.token_factor * d**-self.token_exponent
        )

    def optimum(
        self, flops: float, flops_per_parameter: float = FLOPS_PER_PARAMETER
    ) -> tuple[float, float]:
        """The parameters and tokens of least loss for a budget (arXiv:2203.15556, equation 4).

        Args:
          flops: of the whole training.
          flops_per_parameter: per parameter and token.
        """
        alpha, beta = self.parameter_exponent, self.token_exponent
        # In logarithms: the laws of some bootstrap samples are extreme.
        ratio = math.log(alpha / beta) + _log(self.parameter_factor) - _log(self.token_factor)
        product = math.log(flops / flops_per_parameter)
        parameters = (ratio + beta * product) / (alpha + beta)
        return _exp(parameters), _exp(product - parameters)

    @property
    def optimal_exponent(self) -> float:
        """a in optimal parameters ~ FLOPs^a; tokens grow with 1 - a."""
        return self.token_exponent / (self.parameter_exponent + self.token_exponent)

    def values(self) -> tuple[float, ...]:
        """E, A, alpha, B, beta."""
        return astuple(self)


def _log(value: float) -> float:
    return math.log(max(value, 1e-300))


def _exp(value: float) -> float:
    return math.exp(min(value, 690.0))


@dataclass(frozen=True)
class RepetitionLaw:
    """What repeated tokens are worth (Muennighoff et al. 2023, arXiv:2305.16264, equation 5).

    Of tokens that are read R times more after the first, each pass is worth less by a factor of
    about 1 - 1 / R*; however often, they are worth no more than 1 + R* times the first pass.
    """

    half_life: float
    """R*: passes, after the first, whose worth has fallen by a factor of e."""

    def effective_tokens(self, tokens: ArrayLike, unique: ArrayLike) -> Floats:
        """Tokens of which none is repeated that would be worth as much; broadcasts.

        Args:
          tokens: read in all.
          unique: different ones among them.
        """
        d, u = np.asarray(tokens, np.float64), np.asarray(unique, np.float64)
        u = np.minimum(u, d)
        repeats = d / u - 1
        return np.asarray(u + u * self.half_life * -np.expm1(-repeats / self.half_life))


@dataclass(frozen=True)
class PowerLaw:
    """y = factor x^exponent, as of the best batch size or learning rate in the tokens."""

    factor: float
    exponent: float

    def __call__(self, x: ArrayLike) -> Floats:
        """The values at x > 0."""
        return np.asarray(self.factor * np.asarray(x, np.float64) ** self.exponent)
