"""The laws fitted to a ladder, what they say, and the prediction of a larger run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.errors import UserError
from llmjax.run.folder import Run
from llmjax.run.prediction import Prediction, now, predict
from llmjax.scaling.fitting import BOOTSTRAPS, COVERAGE, Fit, fit_loss_law, percentiles
from llmjax.scaling.ladder import Member
from llmjax.scaling.laws import LossLaw
from llmjax.scaling.points import REPETITION, Point, fitted
from llmjax.storage.checksums import with_checksum
from llmjax.storage.json_documents import json_text
from llmjax.storage.writing import write_atomically

NAMES = ("E", "A", "alpha", "B", "beta")


def value_at(index: int) -> Callable[[LossLaw], float]:
    """Reads one of a law's `NAMES`."""
    return lambda law: law.values()[index]


@dataclass(frozen=True)
class Result:
    """A law of a ladder's finished runs."""

    fit: Fit[LossLaw]
    with_embeddings: bool
    """Whether its parameters count tables of tokens and the LM head."""
    points: tuple[Point, ...]
    """Fitted to."""

    @property
    def spread(self) -> float:
        """Root mean square of log(measured / fitted)."""
        return float(np.sqrt(np.mean(np.square(self.fit.residuals))))

    @property
    def counted(self) -> str:
        """Which parameters, in words."""
        return "all parameters" if self.with_embeddings else "parameters without embeddings"

    def describe(self) -> str:
        """The law with its intervals, in a line."""
        parts = []
        for index, name in enumerate(NAMES):
            low, high = self.fit.interval(value_at(index))
            parts.append(f"{name} {self.fit.law.values()[index]:.4g} ({low:.4g} to {high:.4g})")
        return f"E + A / N^alpha + B / D^beta, N {self.counted}: " + ", ".join(parts)

    def count(self, point: Point | Member) -> int:
        """N of a run."""
        size = point.size if isinstance(point, Member) else None
        if size is not None:
            return size.parameters if self.with_embeddings else size.without_embeddings
        assert isinstance(point, Point)
        if self.with_embeddings:
            return point.parameters
        return point.parameters_without_embeddings

    def predicted(self, parameters: float, tokens: float) -> tuple[float, float, float]:
        """Bits per byte of a run, and the interval: of the law and of a run's deviation from it."""
        generator = np.random.default_rng(0)
        laws = self.fit.samples
        values = np.array([float(law.loss(parameters, tokens)) for law in laws])
        # Residuals of a fit with 5 free values are smaller than those of new runs.
        freedom = len(self.points) / max(len(self.points) - 5, 1)
        noise = generator.choice(self.fit.residuals, (20, len(laws))) * np.sqrt(freedom)
        low, high = percentiles((values * np.exp(noise)).ravel())
        return float(self.fit.law.loss(parameters, tokens)), low, high


def best_result(points: Sequence[Point], bootstraps: int = BOOTSTRAPS) -> Result:
    """Fits the law with both counts of parameters; returns the one that the runs follow closer.

    Raises:
      UserError: there are too few runs.
    """
    kept = tuple(point for point in points if not point.is_held_out)

    def result(with_embeddings: bool, samples: int) -> Result:
        fit = fit_loss_law(fitted(kept, with_embeddings), bootstraps=samples)
        return Result(fit, with_embeddings, kept)

    best = min((result(each, 0) for each in (True, False)), key=lambda each: each.spread)
    return result(best.with_embeddings, bootstraps)


def steepens(points: Sequence[Point]) -> bool:
    """Whether the loss of the largest models still falls faster with more tokens.

    Under any law of the form E + A / N^alpha + B / D^beta it falls slower: log L over log D is
    convex. The law then misses what larger models gain, whatever its fit.
    """
    largest = max((point.parameters for point in points if not point.is_held_out), default=0)
    verdicts = []
    for seed in {point.seed for point in points}:
        row = [point for point in points if (point.parameters, point.seed) == (largest, seed)]
        row.sort(key=lambda point: point.tokens)
        if len(row) > 2:
            x = np.log([point.tokens for point in row])
            y = np.log([point.bits_per_byte for point in row])
            slopes = np.diff(y) / np.diff(x)
            verdicts.append(bool(slopes[-1] < slopes[0]))
    return sum(verdicts) > len(verdicts) / 2


EARLY = (
    "the loss of the largest models still falls faster with more tokens: these runs are too short "
    "for the law, which may predict too high a loss; give more --ratios, of 5 and above"
)
"""What to say then."""


def write_result(folder: Path, result: Result, other: dict[str, Any]) -> None:
    """Writes fit.json: the law, its intervals, and further values.

    Raises:
      UserError: the folder cannot be written.
    """
    law, fit = result.fit.law, result.fit
    values: dict[str, Any] = {
        "law": "bits_per_byte = E + A / N^alpha + B / D^beta",
        "N": result.counted,
        "D": f"training tokens; repeated ones with R* = {REPETITION.half_life}",
        "coverage": COVERAGE,
        "runs": [point.name for point in result.points],
        "residuals": {p.name: float(r) for p, r in zip(result.points, fit.residuals, strict=True)},
    }
    for index, name in enumerate(NAMES):
        interval = list(fit.interval(value_at(index)))
        values[name] = {"value": law.values()[index], "interval": interval}
    exponent = fit.interval(lambda each: each.optimal_exponent)
    values["optimal_exponent"] = {"value": law.optimal_exponent, "interval": list(exponent)}
    try:
        text = json_text(with_checksum(values | other), indent=1) + "\n"
        write_atomically(folder / "fit.json", text)
    except OSError as error:
        raise UserError(folder, f"cannot be written: {error.strerror or error}") from error


def predict_member(result: Result, member: Member, unique_tokens: int) -> Prediction:
    """Predicts a held-out run, and writes that into its folder, which is made if needed.

    Raises:
      UserError: the run has begun.
    """
    tokens = float(REPETITION.effective_tokens(member.tokens, unique_tokens))
    value, low, high = result.predicted(result.count(member), tokens)
    law, runs = result.describe(), tuple(point.name for point in result.points)
    prediction = Prediction(value, low, high, COVERAGE, law, runs, now())
    predict(Run.create(member.config), prediction)
    return prediction
