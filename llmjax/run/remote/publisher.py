"""Publishing the small files of a run from its working copy to the bucket.

Only files that changed are uploaded: when asked to, and in the background at intervals that grow
with what there is to upload, so that a growing metrics.jsonl costs at most RATE.
"""

import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from llmjax.errors import UserError
from llmjax.storage.stores.path import StorePath

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""The shortest seconds between uploads in the background."""
RATE = 1e6
"""Bytes per second that are uploaded in the background at most, on average."""
PAUSES = (1.0, 4.0)
"""Seconds before an upload that must succeed is tried again."""

LOCAL_ID = "checkpoints/local_id"
"""See `llmjax.run.checkpoint.local.run_id`."""
_CHECKPOINTS = ("checkpoints", "frozen")

_Stamp = tuple[int, int]  # modification time in ns, size


class Publisher:
    """Uploads what changes in `folder` since it was created; all threads may call its methods."""

    def __init__(self, folder: Path, target: StorePath, check: Callable[[], None]):
        """Args:
        folder: a working copy of `target`, up to date.
        target: the run in the bucket.
        check: raises UserError if this process may not write there any more.
        """
        self._folder, self._target, self._check = folder, target, check
        self._published = dict(_files(folder))
        self._before = set(self._published)
        self._uploading, self._ends = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._publish_often, name="publish_run", daemon=True)

    def start(self) -> None:
        """Starts to publish in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; waits for an upload that has begun."""
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join()

    def publish(self) -> None:
        """Uploads what has changed, and deletes what is gone. Tries again for some seconds.

        Raises:
          UserError: the bucket cannot be written, or this process may not any more.
        """
        self._check()
        retried(self._publish)

    def withdraw(self) -> None:
        """Deletes what was uploaded under new names.

        Raises:
          UserError: the bucket cannot be written.
        """
        with self._uploading:
            for name in sorted(self._published.keys() - self._before):
                (self._target / name).unlink()
                del self._published[name]

    def _publish(self) -> None:
        with self._uploading:
            self._check()
            found = dict(_files(self._folder))
            changed = [name for name, stamp in found.items() if self._published.get(name) != stamp]
            # The config tells readers that there is a run.
            for name in sorted(changed, key=lambda name: (name == "config.json", name)):
                self._upload(name)
                self._published[name] = found[name]
            for name in self._published.keys() - found.keys():
                (self._target / name).unlink()
                del self._published[name]

    def _upload(self, name: str) -> None:
        """Uploads a file as it is now: it may grow meanwhile."""
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".publish.") as copy:
                shutil.copyfile(self._folder / name, copy.name)
                (self._target / name).upload(copy.name)
        except OSError as error:
            path = self._folder / name
            raise UserError(path, f"cannot be read: {error.strerror or error}") from error

    def _publish_often(self) -> None:
        warned = False
        while not self._ends.wait(self._interval()):
            try:
                self._publish()
                warned = False
            except UserError as error:
                if not warned:
                    log.warning("%s; training continues, and the upload is tried again", error)
                warned = True

    def _interval(self) -> float:
        """Seconds until the next upload, from the sizes of what there is to upload."""
        changed = (
            size
            for name, (time_ns, size) in _files(self._folder)
            if self._published.get(name) != (time_ns, size)
        )
        return max(INTERVAL, sum(changed) / RATE)


def retried(action: Callable[[], None]) -> None:
    """Calls `action`, and again after each of PAUSES while it raises a UserError."""
    for pause in PAUSES:
        try:
            return action()
        except UserError:
            time.sleep(pause)
    return action()


def _files(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    """The files to publish by their names relative to `folder`: all but hidden ones and those of
    checkpoints."""
    for parent, folders, names in os.walk(folder):
        base = PurePosixPath(Path(parent).relative_to(folder))
        skipped = _CHECKPOINTS if base == PurePosixPath() else ()
        folders[:] = [name for name in folders if name[0] != "." and name not in skipped]
        for name in names:
            if name[0] != "." and (stamp := _stamp(Path(parent, name))):
                yield str(base / name), stamp
    if stamp := _stamp(folder / LOCAL_ID):
        yield LOCAL_ID, stamp


def _stamp(file: Path) -> _Stamp | None:
    """None for what is no file, or no longer there, as a temporary one."""
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return None
    is_file = stat.S_ISREG(status.st_mode)
    return (status.st_mtime_ns, status.st_size) if is_file else None
