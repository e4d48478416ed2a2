"""Rolls a run back after a loss spike, and leaves out the batches that led to it.

PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1) was restarted from a checkpoint about
100 steps before each spike, and some 200 to 500 batches were skipped: a spike came of certain
batches in a certain state of the parameters, and did not return without them. Here the run returns
to its newest checkpoint, and leaves out the batches from there to the spike's own.
"""

from dataclasses import replace
from typing import Any

import jax

from llmjax.errors import UserError
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.state import TrainState
from llmjax.step import StepMetrics
from llmjax.training.restoring import restore_again
from llmjax.training.session import Session


class Spike(Exception):
    """The update of a step was skipped, and the run has to roll back."""

    def __init__(self, step: int, batch: int, metrics: StepMetrics):
        """Args:
        step: its number, from 1; no checkpoint holds it or a later one.
        batch: the index of its batch.
        metrics: of the step, on the host.
        """
        super().__init__(step)
        self.step, self.batch = step, batch
        self.loss, self.norm = float(metrics.objective), float(metrics.gradient_norm)

    def __str__(self) -> str:
        return f"loss {self.loss:.4g}, gradient norm {self.norm:.4g}"

    def record(self, progress: TrainProgress) -> dict[str, Any]:
        """The roll back to `progress`, for metrics.jsonl."""
        return {
            "spike_step": self.step,
            "loss": self.loss,
            "gradient_norm": self.norm,
            "batches": progress.left_out[-1][1],
        }


def roll_back(
    session: Session,
    checkpoints: Checkpoints,
    spike: Spike,
    before: TrainProgress,
    state: TrainState,
) -> tuple[TrainState, TrainProgress]:
    """Restores the newest checkpoint; without one, the state of step 0.

    The batches to leave out become part of the checkpoint's progress. All processes call this.

    Args:
      session: the run.
      checkpoints: those of steps before the spike.
      spike: what happened.
      before: the progress before the spike.
      state: the current state, whose memory is given free.

    Raises:
      UserError: the run has rolled back as often as it may, or its data ends here.
    """
    limit = session.config.spikes.max_roll_backs
    if len(before.left_out) >= limit:
        raise UserError(
            f"step {spike.step}",
            f"a loss spike ({spike}) after {limit} roll backs (spikes.max_roll_backs)",
            "earlier checkpoints are complete: a larger max_roll_backs, or spikes.action skip, "
            "resumes from there; a new run may need a lower learning rate",
        )
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    state, progress = restore_again(session, checkpoints)
    batches = spike.batch + 1 - progress.batch
    progress = replace(progress, left_out=(*progress.left_out, (progress.step, batches)))
    if session.within_data(progress).steps <= progress.step:
        raise UserError(
            f"step {spike.step}",
            f"a loss spike ({spike}), after which the data holds no further batch",
            "earlier checkpoints are complete: spikes.action skip resumes from there",
        )
    checkpoints.complete(progress)
    return state, progress


def describe(spike: Spike, progress: TrainProgress) -> str:
    """The roll back to `progress` in a line."""
    where = f"checkpoint {progress.step}" if progress.step else "the start"
    end = progress.batch - 1
    first = end + 1 - progress.left_out[-1][1]
    return (
        f"step {spike.step}: loss spike: {spike}; back to {where}, leaving out batches "
        f"{first:,} to {end:,} (roll back {len(progress.left_out)})"
    )
