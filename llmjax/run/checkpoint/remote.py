"""Checkpoints of a run in a bucket.

Each process saves to its own disk, as Zarr 3 with a file for each chunk of an array: these files of
all processes together are the checkpoint, which nobody has to merge. Each uploads its own, and then
their checksums; process 0 waits for those of all, and publishes the checkpoint with its last
object, checksums.json. Then the values are removed from the disk.

    checkpoints/STEP/params/ARRAY/zarr.json, c/0/1    the description and a chunk
    checkpoints/STEP/position.json, checksums.json    as in a local folder
"""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from llmjax.errors import UserError
from llmjax.run.checkpoint import files
from llmjax.run.checkpoint.checkpoints import UNTRAINED, Checkpoints
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.files import WRITE_ERRORS, check_space, reason, without_warnings
from llmjax.run.checkpoint.progress import MEASURED, TrainProgress, write_progress
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.remote.objects import is_fetched_later
from llmjax.run.remote.publisher import retried
from llmjax.run.remote.run import RemoteRun
from llmjax.storage.checksums import MANIFEST, file_checksums
from llmjax.storage.json_documents import parse_json
from llmjax.storage.stores.path import StorePath
from llmjax.storage.stores.transfer import delete_files, upload_files

PATIENCE = 900.0
"""Seconds that process 0 waits for the next process to have uploaded its files."""
POLL = 0.5
"""Seconds between its looks."""
SLICE = 1 << 22
"""Replicas share the writing of a shard in parts of at least so many bytes."""
_LIMIT = 1 << 26  # bytes of one process's checksums


class RemoteCheckpoints(Checkpoints):
    """Saves and restores a run in a bucket; `folder` is this process's own."""

    def __init__(self, run: RemoteRun, config: CheckpointConfig):
        self._run = run
        self._deleting = ThreadPoolExecutor(1, "delete_checkpoint")
        super().__init__(run.checkpoints, config)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._deleting.shutdown()

    def complete(self, progress: TrainProgress) -> None:
        super().complete(progress)
        step = str(progress.step)
        if jax.process_index() == 0 and (self.folder / step / MEASURED).is_file():
            self._run.publish()  # the logs, which have what was measured
            target = self._run.store / self.folder.name / step / MEASURED
            retried(lambda: target.upload(self.folder / step / MEASURED))

    def _writes_folder(self) -> bool:
        return True

    def _refresh(self) -> None:
        self._run.refresh_checkpoints()

    def _make_checkpointer(self, options: ocp.options.AsyncOptions) -> ocp.AsyncCheckpointer:
        return ocp.AsyncCheckpointer(
            _handler("params", "training"),
            async_options=replace(options, create_directories_asynchronously=False),
            multiprocessing_options=_alone(),
        )

    def _save_args(self, trees: dict[str, Any]) -> ocp.args.Composite:
        return _save_args(self.folder, trees)

    def _finish(self, folder: Path, step: int) -> None:
        publish_checkpoint(self._run, folder, f"{self.folder.name}/{step}")

    def _delete(self, step: int) -> None:
        if jax.process_index() == 0:
            name = f"{self.folder.name}/{step}"
            self._run.confirm_lock()
            self._run.unpublish_checkpoint(name)
            self._deleting.submit(self._run.delete_checkpoint, name)
        super()._delete(step)

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            self._run.set_aside(f"{self.folder.name}/{step}")
        super()._set_aside(step)


def publish_checkpoint(run: RemoteRun, folder: Path, name: str) -> None:
    """Uploads this process's files of an unfinished checkpoint, and in process 0 publishes it, when
    those of all are there. Its values are then removed from `folder`.

    Args:
      run: the run.
      folder: the unfinished checkpoint on this process's disk.
      name: the checkpoint in the run, as "checkpoints/STEP".

    Raises:
      UserError: the bucket cannot be written, the lock is lost, or another process's files do not
        arrive.
    """
    process, target = jax.process_index(), run.store / name
    own = _own_files(folder, process)
    sums = file_checksums(folder, own)
    retried(lambda: upload_files(folder, target, own))
    if process == 0:
        parts = [f"{files.PART}{other}" for other in range(1, jax.process_count())]
        for part in parts:
            sums |= _sums_of(target / part)
        run.publish()  # the log up to this step
        run.confirm_lock()
        manifest = json.dumps(dict(sorted(sums.items())), indent=0).encode()
        retried(lambda: (target / MANIFEST).write_bytes(manifest))
        (folder / MANIFEST).write_bytes(manifest)
        delete_files(target, parts)
    else:
        text = json.dumps(sums).encode()
        retried(lambda: (target / f"{files.PART}{process}").write_bytes(text))
    for file in own:
        if is_fetched_later(f"{name}/{file}"):
            (folder / file).unlink()


def _own_files(folder: Path, process: int) -> list[str]:
    """The files that a process uploads: values, and the list of what it wrote; process 0 also the
    descriptions of the arrays, which are the same everywhere."""
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in files.LATER
    )
    if process == 0:
        return names
    ends = ("/c", f"/array_metadatas/process_{process}")
    return [name for name in names if "/c/" in name or name.endswith(ends)]


def _sums_of(part: StorePath) -> dict[str, list[int]]:
    """The checksums of another process's files, when it has uploaded them.

    Raises:
      UserError: they do not arrive within PATIENCE, or cannot be read.
    """
    end = time.monotonic() + PATIENCE
    while not part.is_file():
        if time.monotonic() > end:
            process = part.name.removeprefix(files.PART)
            late = f"process {process} has not uploaded its part within {PATIENCE:.0f} s"
            raise UserError(part.parent, f"cannot be saved: {late}")
        time.sleep(POLL)
    sums: dict[str, list[int]] = parse_json(part.read_bytes(_LIMIT), part)
    return sums


def save_remote_params(run: RemoteRun, folder: Path, params: Any) -> None:
    """Writes a checkpoint of parameters alone, as step 0. All processes call this.

    Args:
      run: the run.
      folder: a folder of it, such as `run.frozen`.
      params: nested dict of jax.Array, on any mesh, of any float dtype.

    Raises:
      UserError: it cannot be written.
    """
    unfinished = folder / f"0{files.UNFINISHED}-params"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        args = _save_args(folder, {"params": params})
        with (
            without_warnings(),
            ocp.Checkpointer(_handler("params"), multiprocessing_options=_alone()) as checkpointer,
        ):
            checkpointer.save(unfinished, args=args, force=True)
        write_progress(unfinished, UNTRAINED)
        publish_checkpoint(run, unfinished, f"{folder.name}/0")
        unfinished.rename(folder / "0")
    except WRITE_ERRORS as error:
        raise UserError(folder / "0", f"cannot be saved: {reason(error)}") from error
    wait_for_all("parameters saved")


def _alone() -> ocp.options.MultiprocessingOptions:
    """For a process that writes to its own disk, whatever the others do."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=None, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )


def _handler(*items: str) -> ocp.CompositeCheckpointHandler:
    """Writes a file for each chunk: a shard, or the part of a large one that a replica writes."""
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICE)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))

    def zarr() -> ocp.PyTreeCheckpointHandler:
        return ocp.PyTreeCheckpointHandler(
            use_ocdbt=False,
            use_zarr3=True,
            type_handler_registry=registry,
            multiprocessing_options=_alone(),
        )

    # Orbax's writers wait for their folders by keys that all processes share: another process's
    # folder, which is made first, would let them begin before their own is there.
    at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    options = ocp.CompositeOptions(multiprocessing_options=_alone(), async_options=at_once)
    return ocp.CompositeCheckpointHandler(
        composite_options=options, **{item: zarr() for item in items}
    )


def _save_args(folder: Path, trees: Mapping[str, Any]) -> ocp.args.Composite:
    """What Orbax saves, by item; UserError if the disk is too full for this process's part."""
    shards = (shard for leaf in jax.tree.leaves(trees) for shard in leaf.addressable_shards)
    check_space(folder, sum(shard.data.nbytes for shard in shards if shard.replica_id == 0))
    return ocp.args.Composite(**{item: ocp.args.PyTreeSave(tree) for item, tree in trees.items()})
