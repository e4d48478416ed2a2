"""Trains the runs of a row, one after the other, in this process."""

from pathlib import Path

from llmjax.run.folder import Run
from llmjax.scaling.folder import is_finished, prepare_branch
from llmjax.scaling.ladder import Member
from llmjax.training.train import train


def train_row(row: list[Member]) -> None:
    """Trains those that are not finished; a killed row continues where it was.

    Raises:
      UserError: as `train`.
      Stopped: by a signal.
    """
    folders = {member.name: Path(member.config.run_dir) for member in row}
    for member in row:
        if is_finished(member):
            continue
        if member.begins_from is not None:
            prepare_branch(member, Run(folders[member.begins_from]))
        train(member.config)
