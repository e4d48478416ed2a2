"""`scale`: trains a ladder, fits its law, predicts the held-out run, trains it, and reports."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmjax.run.folder import Run
from llmjax.run.prediction import Prediction, prediction_of
from llmjax.scaling.engines.engine import Engine, check_codes
from llmjax.scaling.fitting import BOOTSTRAPS
from llmjax.scaling.folder import LadderFolder, is_finished
from llmjax.scaling.ladder import Member
from llmjax.scaling.points import Point, points_of, write_points
from llmjax.scaling.results import (
    EARLY,
    Result,
    best_result,
    predict_member,
    steepens,
    write_result,
)
from llmjax.scaling.training import train_row

log = logging.getLogger(__name__)

HELD_OUT = "held-out-"
"""Of the names of rows."""


@dataclass(frozen=True)
class Outcome:
    """A held-out run."""

    name: str
    prediction: Prediction
    measured: float | None
    """Bits per byte; None: not trained yet."""

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        return None if self.measured is None else self.prediction.bits_per_byte / self.measured - 1


@dataclass(frozen=True)
class Scaled:
    """What a ladder has come to."""

    folder: LadderFolder
    points: tuple[Point, ...]
    result: Result
    outcomes: tuple[Outcome, ...]


def scale(folder: LadderFolder, engine: Engine, bootstraps: int = BOOTSTRAPS) -> Scaled:
    """Trains what is not trained yet, and fits.

    Args:
      folder: of the ladder.
      engine: where its runs are trained.
      bootstraps: samples for intervals.

    Raises:
      UserError: a run failed, or there are too few for a fit.
      Stopped: by a signal; the same command continues.
    """
    _train(folder, engine, held_out=False)
    members = folder.members()
    finished = points_of(members)
    result = best_result(finished, bootstraps)
    if steepens(finished):
        log.warning("%s", EARLY)
    for member in members:
        if member.is_held_out and not is_finished(member):
            _predict(result, member)
    _train(folder, engine, held_out=True)
    return collect(folder, result)


def train_named(folder: LadderFolder, row: str) -> None:
    """Trains a row in this process, as engines ask for it.

    Raises:
      UserError: there is no such row; or as `train`.
      Stopped: by a signal.
    """
    from llmjax.errors import UserError

    rows = _rows(folder, row.startswith(HELD_OUT))
    if row not in rows:
        raise UserError(f"--row {row}", "no such row", "rows are " + ", ".join(rows))
    train_row(rows[row])


def collect(folder: LadderFolder, result: Result) -> Scaled:
    """The finished runs, stored as tables beside the fit."""
    points = tuple(points_of(folder.members()))
    measured = {point.name: point.bits_per_byte for point in points}
    outcomes = []
    for member in folder.members():
        prediction = prediction_of(Run(Path(member.config.run_dir))) if member.is_held_out else None
        if prediction is not None:
            outcomes.append(Outcome(member.name, prediction, measured.get(member.name)))
    write_points(folder.path, points)
    held_out: dict[str, Any] = {
        each.name: {
            "predicted": each.prediction.bits_per_byte,
            "interval": [each.prediction.low, each.prediction.high],
            "measured": each.measured,
            "error": each.error,
        }
        for each in outcomes
    }
    write_result(folder.path, result, {"held_out": held_out})
    return Scaled(folder, points, result, tuple(outcomes))


def _rows(folder: LadderFolder, held_out: bool) -> dict[str, list[Member]]:
    """Rows by the name of their first run."""
    return {row[0].name: row for row in folder.rows(held_out)}


def _train(folder: LadderFolder, engine: Engine, held_out: bool) -> None:
    """Trains the rows that are not finished."""
    rows = _rows(folder, held_out)
    waiting = [name for name, row in rows.items() if not all(map(is_finished, row))]
    if not waiting:
        return
    left = len(waiting)

    def done(index: int, code: int) -> None:
        nonlocal left
        left -= 1
        finished = points_of(rows[waiting[index]])
        figures = ", ".join(f"{point.name} {point.bits_per_byte:.4f}" for point in finished)
        log.warning("%s bits per byte; %d rows left", figures or waiting[index], left)

    check_codes(folder.path, waiting, engine.run(folder.path, waiting, done))


def _predict(result: Result, member: Member) -> None:
    """Writes the prediction of a run that has not begun; one that has keeps its own."""
    run = Run(Path(member.config.run_dir))
    if run.steps() or prediction_of(run) is not None:
        return
    unique = max(point.unique_tokens for point in result.points)
    found = predict_member(result, member, unique)
    log.warning(
        "%s: predicted %.4f bits per byte (%.4f to %.4f), written before it is trained",
        member.name,
        found.bits_per_byte,
        found.low,
        found.high,
    )


def summary(scaled: Scaled) -> dict[str, Any]:
    """The result as plain data."""
    law = scaled.result.fit.law
    return {
        "ladder": str(scaled.folder.path),
        "runs": len(scaled.points),
        "law": dict(zip(("E", "A", "alpha", "B", "beta"), law.values(), strict=True)),
        "N": scaled.result.counted,
        "spread": scaled.result.spread,
        "held_out": [
            {
                "run": each.name,
                "predicted": each.prediction.bits_per_byte,
                "interval": [each.prediction.low, each.prediction.high],
                "measured": each.measured,
                "error": each.error,
            }
            for each in scaled.outcomes
        ],
    }


def in_words(scaled: Scaled) -> str:
    """The result as text."""
    lines = [
        f"{scaled.folder.path}: {len(scaled.points)} runs, "
        f"{len({p.parameters for p in scaled.points})} sizes; "
        f"deviation from the law {scaled.result.spread:.2%}",
        scaled.result.describe(),
    ]
    for each in scaled.outcomes:
        told = each.prediction
        line = (
            f"{each.name}: predicted {told.bits_per_byte:.4f} ({told.low:.4f} to {told.high:.4f})"
        )
        if each.measured is not None and each.error is not None:
            line += f", measured {each.measured:.4f}: off by {each.error:+.2%}"
        lines.append(line)
    return "\n".join(lines)


def table(members: Sequence[Member]) -> str:
    """The runs of a ladder before they are trained."""
    lines = [f"{'run':<24}{'parameters':>12}{'tokens':>12}{'FLOPs':>10}{'own':>10}  state"]
    for member in members:
        state = "finished" if is_finished(member) else "waits"
        lines.append(
            f"{member.name:<24}{member.size.parameters:>12,}{member.tokens:>12,}"
            f"{member.flops:>10.2e}{member.own_flops:>10.2e}  {state}"
        )
    own = sum(member.own_flops for member in members if not is_finished(member))
    return "\n".join([*lines, f"to train: {own:.2e} FLOPs"])
