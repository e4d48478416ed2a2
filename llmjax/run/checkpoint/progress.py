"""How far a run has come, as a file in each checkpoint."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

NAME = "position.json"  # what every stored checkpoint calls it
MEASURED = "measured.json"
"""The same after what was still due has been measured; it comes later than the checksums."""


@dataclass(frozen=True)
class TrainProgress:
    """How far training has come: which batch is next, and the totals so far."""

    step: int
    """Steps taken; also the number of the next batch."""
    seed: int
    batch_size: int
    length: int
    corpus: str
    """Fingerprint of the tokenized text: with the four above it decides every batch."""
    epoch: float = 0.0
    """Passes through the training text."""
    tokens: int = 0
    """Tokens that the model has read."""
    skipped: int = 0
    """Updates left out because something was not finite."""
    seconds: float = 0.0
    """Time spent in training steps."""
    heldout_loss: float | None = None
    """What is to be small: the held-out loss, or evaluation.metric (less than 0 where larger is
    better), where it was measured at this very step."""
    best: float | None = None
    """The least of these so far."""
    worse: int = 0
    """How many measurements in a row have not been better than that."""
    evaluation_due: bool = False
    """Whether the evaluation after this step is still to be made: a signal had it left out."""
    samples_due: bool = False
    """Whether the samples after this step are still to be written."""

    def update_best(self, cost: float | None) -> "TrainProgress":
        """The same after a measurement; one that is not finite counts as worse than any."""
        if cost is None:
            return self
        # Of a run of an earlier version, the best may be no number, which nothing is less than.
        none_yet = self.best is None or not math.isfinite(self.best)
        if math.isfinite(cost) and (none_yet or cost < self.best):  # type: ignore[operator]
            return replace(self, best=cost, worse=0)
        return replace(self, worse=self.worse + 1)

    def is_over(self, patience: int) -> bool:
        """Whether it has been long enough without a better measurement; never where that is 0."""
        return 0 < patience <= self.worse


def write_progress(folder: Path, progress: TrainProgress) -> None:
    """Writes it into a checkpoint that is not visible yet."""
    (folder / NAME).write_text(
        json.dumps(with_checksum(asdict(progress)), indent=0), encoding="utf-8"
    )


def complete_progress(folder: Path, progress: TrainProgress) -> None:
    """Replaces where the run stood at a finished checkpoint; `folder` is RUN/checkpoints.

    Raises:
      OSError: it cannot be written.
    """
    path = folder / str(progress.step) / MEASURED
    write_atomically(path, json.dumps(with_checksum(asdict(progress)), indent=0))


def read_progress(folder: Path, step: int) -> TrainProgress:
    """Where the run stood at a checkpoint; `folder` is RUN/checkpoints.

    Raises:
      UserError: it is missing or damaged, or was written by another version of llmjax.
    """
    path = folder / str(step) / MEASURED
    if not path.is_file():
        path = folder / str(step) / NAME
    try:
        return TrainProgress(**check_checksum(read_json(path), path))
    except (AttributeError, TypeError) as error:
        raise UserError(path, f"cannot be understood: {error}") from error
