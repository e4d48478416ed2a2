"""Saving and restoring with Orbax.

A checkpoint is a folder RUN/checkpoints/STEP:

    params/         the parameters
    training/       the step and the optimizer state
    position.json   the position in the data, and totals so far
    checksums.json  checksums of all other files

It is written under a temporary name, and renamed when complete. That of an imported model has no
training/. Retention uses Orbax's preservation policies, but not its CheckpointManager, which takes
metrics only at a save: a run may evaluate the step later.
"""

import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from llmjax.errors import UserError
from llmjax.run.checkpoint import files
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.files import WRITE_ERRORS, check_space, reason, without_warnings
from llmjax.run.checkpoint.handler import SummingHandler
from llmjax.run.checkpoint.local import LocalCheckpoints, run_id
from llmjax.run.checkpoint.progress import (
    TrainProgress,
    complete_progress,
    read_progress,
    write_progress,
)
from llmjax.run.checkpoint.reading import (
    holds_only_params,
    newest_complete,
    params_handler,
    wait_for_all,
)
from llmjax.run.checkpoint.training_state import read_state, training_items
from llmjax.state import TrainState
from llmjax.storage.writing import check_utf8

# Names of Orbax's writer threads; some continue after another one has failed.
WRITERS = ("array_type_handler", "write_metadata_after_commits", "async_save")


class Checkpoints:
    """Saves and restores a run in training; a context manager. All processes call each method."""

    def __init__(self, folder: Path, config: CheckpointConfig):
        """Opens or creates the folder, and removes what an interrupted process left behind.

        Raises:
          UserError: the folder cannot be written.
        """
        self.folder, self.config = folder.absolute(), config
        if self._writes_folder():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                files.sweep(self.folder)
            except OSError as error:
                raise UserError(folder, f"cannot be written: {error.strerror}") from error
        wait_for_all("checkpoints open")
        self._local = None
        if config.local_dir is not None:
            self._local = LocalCheckpoints(config.local_dir, run_id(self.folder), folder.parent)
        self._saving: TrainProgress | None = None
        self._checkpointer = self._make_checkpointer(
            ocp.options.AsyncOptions(post_finalization_callback=self._complete)
        )
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(without_warnings())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        return files.steps(self.folder)

    def save(self, state: TrainState, progress: TrainProgress) -> None:
        """Copies the state and returns; it is written in the background. Waits for earlier saves.

        Raises:
          UserError: this save or the previous one cannot be written; earlier ones are complete.
        """
        self.wait()
        step = progress.step
        if step in self.steps():
            return
        training = training_items(state.step, state.opt_state)
        items = self._save_args({"params": state.params, "training": training})
        self._saving = progress
        try:
            self._checkpointer.save(self.folder / str(step), args=items, force=True)
        except (*WRITE_ERRORS, UserError) as error:
            raise self._failed(error) from error

    def save_local(self, state: TrainState, progress: TrainProgress) -> None:
        """Saves to the local disks, as `save` does to the folder; needs `config.local_dir`.

        Raises:
          UserError: the previous such save could not be written.
        """
        assert self._local is not None
        self._local.save(state, progress)

    def complete(self, progress: TrainProgress) -> None:
        """Updates the progress in a finished checkpoint, after an evaluation made up for or a roll
        back.

        Raises:
          UserError: it cannot be written.
        """
        if self._local is not None:
            self._local.complete(progress)
        if self._writes_folder() and progress.step in self.steps():
            try:
                complete_progress(self.folder, progress)
            except OSError as error:
                folder = self.folder / str(progress.step)
                raise UserError(folder, f"cannot be written: {error.strerror}") from error

    def wait(self) -> None:
        """Waits until the last save is written, then deletes checkpoints that need not be kept.

        Raises:
          UserError: the last save could not be written.
        """
        try:
            self._checkpointer.wait_until_finished()
        except (*WRITE_ERRORS, UserError) as error:
            raise self._failed(error) from error
        if self._saving is not None and self._writes_folder():
            for step in files.steps_to_delete(self.steps(), self.config, self._heldout_loss):
                self._delete(step)
        self._saving = None

    def close(self) -> None:
        """Waits for the last save and releases the threads."""
        try:
            self.wait()
        finally:
            self._checkpointer.close()
            self._quiet.close()
            if self._local is not None:
                self._local.close()

    def restore(self, abstract: TrainState) -> tuple[TrainState, TrainProgress] | None:
        """Restores the newest complete checkpoint; None if there is none, or only parameters. Waits
        for saves.

        A newer one on the local disks comes first. Damaged ones are renamed to STEP.damaged, with a
        warning.

        Args:
          abstract: shapes, dtypes and shardings (`state.abstract_state`), on any mesh.

        Raises:
          UserError: no checkpoint is complete; or it holds another state.
        """
        self.wait()
        wait_for_all("checkpoints saved")
        self._refresh()
        if self._local is not None:
            newest = max(self.steps(), default=-1)
            if (restored := self._local.restore(abstract, newest)) is not None:
                return restored
        training = training_items(abstract.step, abstract.opt_state)
        trees = {"params": abstract.params, "training": training}
        step, damaged = newest_complete(self.folder, items=trees)
        if self._writes_folder():
            for name in damaged:
                self._set_aside(name)
        wait_for_all("damaged checkpoints set aside")
        if step is None or holds_only_params(self.folder / str(step)):
            return None
        return read_state(self.folder / str(step), abstract), read_progress(self.folder, step)

    def _writes_folder(self) -> bool:
        """Whether this process creates, renames and deletes checkpoints in `folder`."""
        return jax.process_index() == 0

    def _refresh(self) -> None:
        """Makes the checkpoints that other processes have finished visible in `folder`."""

    def _make_checkpointer(self, options: ocp.options.AsyncOptions) -> ocp.AsyncCheckpointer:
        return ocp.AsyncCheckpointer(SummingHandler(), async_options=options)

    def _save_args(self, trees: dict[str, Any]) -> ocp.args.Composite:
        """What Orbax saves, by item; UserError if the disk is too full."""
        if jax.process_index() == 0:
            check_space(self.folder, _bytes(trees))
        args = {item: ocp.args.StandardSave(tree) for item, tree in trees.items()}
        return ocp.args.Composite(**args)

    def _complete(self) -> None:
        """Called by Orbax when all items are written, before it renames the folder; by default in
        process 0."""
        assert self._saving is not None
        for folder in self.folder.glob(f"{self._saving.step}{files.UNFINISHED}*"):
            write_progress(folder, self._saving)
            self._finish(folder, self._saving.step)

    def _finish(self, folder: Path, step: int) -> None:
        """Completes an unfinished checkpoint, which has all its other files."""
        files.write_checksums(folder)

    def _delete(self, step: int) -> None:
        files.delete(self.folder, step)

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that the step can be saved again."""
        files.set_aside(self.folder, step)

    def _heldout_loss(self, step: int) -> float | None:
        return read_progress(self.folder, step).heldout_loss

    def _failed(self, error: BaseException) -> UserError:
        assert self._saving is not None
        step, self._saving = self._saving.step, None
        for thread in threading.enumerate():
            if thread.name in WRITERS:  # their files would be left behind
                thread.join(timeout=60)
        if self._writes_folder():
            files.sweep(self.folder)
        if isinstance(error, UserError):
            return error
        return UserError(
            self.folder / str(step),
            f"cannot be saved: {reason(error)}",
            "earlier checkpoints are complete: fix it and run the same command again",
        )


def _bytes(tree: Any) -> int:
    """Bytes of all values of a tree of global arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


UNTRAINED = TrainProgress(step=0, seed=0, batch_size=0, length=0, corpus="")
"""The progress stored with imported or frozen parameters."""


def save_params(folder: Path, params: Any, step: int = 0) -> None:
    """Writes a checkpoint of parameters alone, without copying them. All processes call this.

    Args:
      folder: RUN/checkpoints.
      params: nested dict of jax.Array, on any mesh, of any float dtype.
      step: the step to name it by.

    Raises:
      UserError: it cannot be written.
    """
    check_utf8(folder)
    folder = folder.absolute()
    unfinished = folder / f"{step}{files.UNFINISHED}-params"
    items = ocp.args.Composite(params=ocp.args.StandardSave(params))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = SummingHandler(params=params_handler(params))
        if jax.process_index() == 0:
            check_space(folder, _bytes(params))
        with without_warnings(), ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(unfinished, args=items, force=True)
        if jax.process_index() == 0:
            write_progress(unfinished, UNTRAINED)
            files.write_checksums(unfinished)
            unfinished.rename(folder / str(step))
    except WRITE_ERRORS as error:
        raise UserError(folder / str(step), f"cannot be saved: {reason(error)}") from error
    wait_for_all("parameters saved")
