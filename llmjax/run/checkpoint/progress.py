"""The progress of a run, a file in each checkpoint."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

NAME = "position.json"
MEASURED = "measured.json"
"""The progress after an evaluation made up for; written after the checksums."""


@dataclass(frozen=True)
class TrainProgress:
    """The next step with its batch, and the totals so far."""

    step: int
    """Steps taken."""
    seed: int
    batch_size: int
    length: int
    corpus: str
    """Fingerprint of the training data, which with the three above determines every batch."""
    epoch: float = 0.0
    """Passes through the training set."""
    tokens: int = 0
    """Tokens that the model was trained on."""
    skipped: int = 0
    """Updates skipped because the loss or the gradient was not finite, or a spike."""
    seconds: float = 0.0
    """Time spent in training steps."""
    heldout_loss: float | None = None
    """The cost: the validation loss, or evaluation.metric (negated if larger is better); None
    unless evaluated at this very step."""
    best: float | None = None
    """The lowest cost so far."""
    worse: int = 0
    """Evaluations since then."""
    evaluation_due: bool = False
    """Whether the evaluation after this step was skipped because of a signal."""
    tasks_due: bool = False
    """Whether the tasks of evaluation.tasks were skipped after this step because of a signal."""
    samples_due: bool = False
    """Whether the samples after this step were skipped because of a signal."""
    stages: tuple[str, ...] = ()
    """The data.stages that began before this step, in words."""
    left_out: tuple[tuple[int, int], ...] = ()
    """(step, batches) of each roll back: so many batches were left out before this step's batch."""

    @property
    def batch(self) -> int:
        """Index of the next batch in the order of the data."""
        return self.step + self.batches_left_out

    @property
    def batches_left_out(self) -> int:
        """How many batches were left out by all roll backs."""
        return sum(batches for _, batches in self.left_out)

    def update_best(self, cost: float | None) -> "TrainProgress":
        """The progress after an evaluation; a cost that is not finite counts as the worst."""
        if cost is None:
            return self
        # Earlier versions may have stored a NaN, which compares with nothing.
        is_first = self.best is None or not math.isfinite(self.best)
        if math.isfinite(cost) and (is_first or cost < self.best):  # type: ignore[operator]
            return replace(self, best=cost, worse=0)
        return replace(self, worse=self.worse + 1)

    def is_over(self, patience: int) -> bool:
        """Whether `patience` evaluations in a row were no better; never with patience 0."""
        return 0 < patience <= self.worse


def write_progress(folder: Path, progress: TrainProgress) -> None:
    """Writes the progress into an unfinished checkpoint at `folder`."""
    (folder / NAME).write_text(
        json.dumps(with_checksum(asdict(progress)), indent=0), encoding="utf-8"
    )


def complete_progress(folder: Path, progress: TrainProgress) -> None:
    """Updates the progress of a finished checkpoint; `folder` is RUN/checkpoints.

    Raises:
      OSError: it cannot be written.
    """
    path = folder / str(progress.step) / MEASURED
    write_atomically(path, json.dumps(with_checksum(asdict(progress)), indent=0))


def progress_of(document: Mapping[str, Any]) -> TrainProgress:
    """The progress of the fields that `asdict` gives, after a round trip through JSON.

    Raises:
      AttributeError, TypeError, ValueError: it is that of another version of llmjax.
    """
    progress = TrainProgress(**document)
    left_out = tuple((int(step), int(batches)) for step, batches in progress.left_out)
    return replace(progress, stages=tuple(progress.stages), left_out=left_out)


def read_progress(folder: Path, step: int) -> TrainProgress:
    """The progress at a checkpoint; `folder` is RUN/checkpoints.

    Raises:
      UserError: it is missing or damaged, or was written by another version of llmjax.
    """
    path = folder / str(step) / MEASURED
    if not path.is_file():
        path = folder / str(step) / NAME
    try:
        return progress_of(check_checksum(read_json(path), path))
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(path, f"cannot be read: {error}") from error
