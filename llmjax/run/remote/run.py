"""A run in a bucket, in training: each process works in its own local copy of it.

The bucket is the truth: a start begins with a new copy of what was published. Process 0 holds the
run's lock and publishes what it writes; the others fetch that. The values of checkpoints are
fetched when they are restored, each process those of its devices.
"""

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from llmjax.errors import UserError
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.remote.lock import StoreLock
from llmjax.run.remote.objects import LOCK, is_fetched_later, visible
from llmjax.run.remote.publisher import Publisher
from llmjax.storage.cache_folders import unwritable_is_user_error
from llmjax.storage.checksums import MANIFEST
from llmjax.storage.stores.mirror import Objects, bring_up_to_date
from llmjax.storage.stores.path import StorePath, location
from llmjax.storage.stores.transfer import check_finished, delete_files
from llmjax.storage.writing import cache_root, write_atomically

log = logging.getLogger(__name__)


class HasTrained(Protocol):
    """How far a start is."""

    trained: bool
    """Whether it has finished a step."""


@dataclass(frozen=True)
class RemoteRun(Run):
    """The working copy of a run in a bucket; see `RemoteStart`."""

    store: StorePath
    """The run in the bucket."""
    held: StoreLock | None = field(default=None, compare=False)
    publisher: Publisher | None = field(default=None, compare=False)
    """These two in process 0 alone."""

    @property
    def address(self) -> str:
        return str(self.store)

    def publish(self) -> None:
        if self.publisher is not None:
            self.publisher.publish()

    def refresh(self) -> None:
        if self.publisher is None:
            bring_up_to_date(self.folder, self.store, self._objects, is_fetched_later)

    def refresh_checkpoints(self) -> None:
        """Makes all published checkpoints visible in this process, whose values are on no disk
        after a save.

        Raises:
          UserError: the bucket cannot be read.
        """
        within = f"{self.checkpoints.name}/"
        bring_up_to_date(self.folder, self.store, self._objects, is_fetched_later, within)

    def _objects(self) -> Objects:
        files = self.store.files()
        check_finished(self.store, files)
        return visible(files)

    def check_lock(self) -> None:
        if self.held is not None:
            self.held.check()

    def confirm_lock(self) -> None:
        """As `check_lock`, but asks the store if that was long ago: before something is written."""
        if self.held is not None:
            self.held.confirm()

    def keep(self, file: Path, text: str) -> None:
        write_atomically(file, text)  # the publisher does the rest

    def unpublish_checkpoint(self, name: str) -> None:
        """Deletes the checksums of a checkpoint in the bucket, so that nobody reads it any more.

        Args:
          name: in the run, as "checkpoints/STEP".

        Raises:
          UserError: the bucket cannot be written.
        """
        (self.store / name / MANIFEST).unlink()

    def delete_checkpoint(self, name: str) -> None:
        """Deletes an unpublished checkpoint; what is left of it, a later `sweep` removes."""
        folder = self.store / name
        try:
            delete_files(folder, folder.files())
        except UserError as error:
            log.warning("%s; it is removed by a later start", error)

    def set_aside(self, name: str) -> None:
        """Moves a damaged checkpoint in the bucket to NAME.damaged, its checksums first."""
        folder, target = self.store / name, self.store / f"{name}.damaged"
        for file in sorted(folder.files(), key=lambda file: file != MANIFEST):
            (folder / file).move(target / file)

    def sweep(self) -> None:
        """Deletes what interrupted saves have left in the bucket.

        Raises:
          UserError: the bucket cannot be written.
        """
        objects = self.store.files()
        seen = visible(objects).keys() | {LOCK}
        delete_files(self.store, [name for name in objects if name not in seen])


class RemoteStart:
    """Opens a run in a bucket for a start of its training, and removes what a failed start leaves
    there."""

    def __init__(self, config: Config, process: int, count: int):
        """Args:
        config: its run_dir is an address.
        process, count: the index of this process, and how many there are. Each has its own copy,
          also on one host.
        """
        store = location(config.run_dir)
        assert isinstance(store, StorePath)
        digest = hashlib.blake2b(str(store).encode(), digest_size=8).hexdigest()
        folder = cache_root(config.data.cache_dir) / "training" / f"{store.name[:100]}-{digest}"
        self._folder = folder if count == 1 else folder / f"process_{process}"
        self._config, self._store = config, store
        self._run: RemoteRun | None = None

    def join(self) -> RemoteRun:
        """The run in a process other than 0, when process 0 has created it.

        Raises:
          UserError: the bucket cannot be read, or the copy not written.
        """
        run = RemoteRun(self._new_copy(), self._store)
        run.refresh()
        return run

    @contextlib.contextmanager
    def open(self, status: HasTrained) -> Iterator[RemoteRun]:
        """The run in process 0: locked, created or checked as one to resume, published in the
        background and at the end.

        Raises:
          UserError: another training holds it, it is of another config, or the bucket cannot be
            used.
        """
        with StoreLock(self._store / LOCK) as lock:
            copy = RemoteRun(self._new_copy(), self._store)
            copy.refresh()
            copy.sweep()
            publisher = Publisher(copy.folder, self._store, lock.confirm)
            self._run = run = replace(copy, held=lock, publisher=publisher)
            stored = run.stored_config()
            try:
                run.prepare(self._config)
                run.publish()
                publisher.start()
                yield run
                publisher.stop()
                run.publish()
            except BaseException as error:
                publisher.stop()
                if isinstance(error, UserError) and not status.trained:
                    run.put_back(stored)
                self._end_failed(run, status)
                raise

    def remove(self, status: HasTrained) -> None:
        """Ends the run where another process has failed: no more is published, what a start left
        that trained nothing is removed, and the lock is released."""
        run, self._run = self._run, None
        if run is not None and run.publisher is not None and run.held is not None:
            with contextlib.suppress(UserError):
                self._end_failed(run, status)
            run.held.release()

    def _end_failed(self, run: RemoteRun, status: HasTrained) -> None:
        """Publishes the logs of a start that ends with an error; or, if the run was never trained,
        removes what this start has published. The error that ended it is the one to report."""
        assert run.publisher is not None
        assert run.held is not None
        logged = run.metrics_file.is_file() and run.metrics_file.stat().st_size > 0
        try:
            run.held.confirm()
            if status.trained or run.steps() or logged:
                run.publish()
            else:
                run.publisher.withdraw()
        except UserError as error:
            log.warning("%s", error)

    def _new_copy(self) -> Path:
        """An empty folder for the working copy."""
        with unwritable_is_user_error(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
        return self._folder
