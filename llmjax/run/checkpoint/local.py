"""Checkpoints on the local disks of the processes, for restarts on the same machines.

Each process writes the shards of its own devices: LOCAL_DIR/RUN_ID/process_N/STEP.safetensors, and
when that is complete STEP.json, with its checksum, the layout of the shards and the progress. A
restart on the same mesh takes from other processes what one has lost, as far as they hold replicas.
(Orbax's emergency checkpoints know replicas over whole slices only.)
"""

import json
import logging
import secrets
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from safetensors.numpy import load_file, save_file

from llmjax.errors import UserError
from llmjax.parallel.distributed.texts import text_of
from llmjax.run.checkpoint.progress import TrainProgress, progress_of
from llmjax.run.checkpoint.shards import Piece, Shards
from llmjax.storage.checksums import check_checksum, file_checksums, with_checksum
from llmjax.storage.json_documents import parse_json, read_json
from llmjax.storage.writing import write_atomically

log = logging.getLogger(__name__)

KEPT = 2
"""How many of the newest local checkpoints each process keeps."""


class LocalCheckpoints:
    """Saves and restores the shards of this process. All processes call each method."""

    def __init__(self, local_dir: str, run_id: int):
        """Args:
        local_dir: a folder on this process's disk.
        run_id: identifies the run, the same in all its processes.

        Raises:
          UserError: the folder cannot be written.
        """
        name = f"process_{jax.process_index()}"
        self.folder = Path(local_dir).expanduser().absolute() / f"{run_id:08x}" / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(".*"):  # left by an interrupted save
                path.unlink()
        except OSError as error:
            raise UserError(self.folder, f"cannot be written: {error.strerror}") from error
        self._thread = ThreadPoolExecutor(1, "local_checkpoint")
        self._written: Future[None] | None = None

    def save(self, state: Any, progress: TrainProgress) -> None:
        """Copies this process's shards and returns; they are written in the background.

        Raises:
          UserError: the previous save could not be written.
        """
        self.wait()
        shards = Shards(state)
        pieces = shards.copy_local()
        self._written = self._thread.submit(self._write, pieces, shards.fingerprint, progress)

    def wait(self) -> None:
        """Waits until the last save is written.

        Raises:
          UserError: it could not be written.
        """
        written, self._written = self._written, None
        if written is None:
            return
        try:
            written.result()
        except OSError as error:
            raise UserError(
                self.folder,
                f"cannot be written: {error.strerror or error}",
                "free some space, or set checkpoint.local_dir to another folder or to null",
            ) from error

    def complete(self, progress: TrainProgress) -> None:
        """Updates the progress in a finished checkpoint, if there is one of its step.

        Raises:
          UserError: it cannot be written; or it is damaged.
        """
        self.wait()
        path = self.folder / f"{progress.step}.json"
        if not path.is_file():
            return
        document = check_checksum(read_json(path), path) | {"progress": asdict(progress)}
        try:
            write_atomically(path, json.dumps(with_checksum(document)))
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Waits for the last save and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def restore(self, abstract: Any, newer_than: int) -> tuple[Any, TrainProgress] | None:
        """Restores the newest step that all processes together can supply.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          newer_than: the step of the store's newest checkpoint, which serves as well; -1: none.

        Returns:
          None if there is no such step: process 0 logs why, if any process holds newer ones.
        """
        self.wait()
        shards = Shards(abstract)
        held = {step: found for step in self.steps() if (found := self._verified(step, shards))}
        steps = _steps_of_all([step for step in held if step > newer_than])
        for step in sorted(set().union(*steps), reverse=True):
            holders = [process for process, have in enumerate(steps) if step in have]
            if shards.is_complete(holders):
                return self._restore(step, shards, holders, held.get(step))
        if any(steps) and jax.process_index() == 0:
            newest = max(set().union(*steps))
            lost = [str(process) for process, have in enumerate(steps) if newest not in have]
            log.warning(
                "local checkpoint %d lacks shards that only process %s held; resuming from %s",
                newest,
                ", ".join(lost),
                "the start" if newer_than < 0 else f"checkpoint {newer_than} of the run folder",
            )
        return None

    def steps(self) -> list[int]:
        """Steps of this process's complete local checkpoints, in order."""
        return sorted(
            int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdecimal()
        )

    def _write(
        self, pieces: dict[str, np.ndarray], fingerprint: int, progress: TrainProgress
    ) -> None:
        step = progress.step
        data = self.folder / f"{step}.safetensors"
        unfinished = self.folder / f".{step}.safetensors"
        save_file(pieces, unfinished)
        document = {
            "sums": file_checksums(self.folder, [unfinished.name])[unfinished.name],
            "fingerprint": fingerprint,
            "progress": asdict(progress),
        }
        (self.folder / f"{step}.json").unlink(missing_ok=True)
        unfinished.rename(data)
        write_atomically(self.folder / f"{step}.json", json.dumps(with_checksum(document)))
        for old in self.steps()[:-KEPT]:
            (self.folder / f"{old}.json").unlink()
            (self.folder / f"{old}.safetensors").unlink(missing_ok=True)

    def _verified(self, step: int, shards: Shards) -> dict[str, Any] | None:
        """The document of a step, if its shards are intact and those of `shards`."""
        path, name = self.folder / f"{step}.json", f"{step}.safetensors"
        try:
            document = check_checksum(read_json(path), path)
            progress_of(document["progress"])
            intact = file_checksums(self.folder, [name])[name] == document["sums"]
        except (OSError, UserError, AttributeError, KeyError, TypeError, ValueError):
            intact = False
        if not intact:
            log.warning("local checkpoint %s is damaged; it is not used", path)
            return None
        return document if document["fingerprint"] == shards.fingerprint else None

    def _restore(
        self, step: int, shards: Shards, holders: list[int], document: dict[str, Any] | None
    ) -> tuple[Any, TrainProgress]:
        """Reads this process's pieces, exchanges lost ones, and places all on the devices."""
        read = {} if document is None else load_file(self.folder / f"{step}.safetensors")
        for source, piece in shards.lost(holders):
            data = read[piece.name] if jax.process_index() == source else None
            received = _broadcast(piece, data, source)
            if jax.process_index() not in holders and shards.needs(piece.name):
                read[piece.name] = received
        text = json.dumps({} if document is None else document["progress"])
        progress = progress_of(parse_json(text_of(holders[0], text), "progress"))
        return shards.place(read), progress


def run_id(folder: Path) -> int:
    """The random number that names a run's local checkpoints, from a file of its checkpoint folder:
    a run that starts over in the same folder gets another. All processes call this.

    Raises:
      UserError: process 0 cannot read or write it.
    """
    path, number = folder / "local_id", 0
    if jax.process_index() == 0:
        try:
            if not path.is_file():
                write_atomically(path, f"{secrets.randbits(31):08x}\n")
            number = int(path.read_text(), 16) & (2**31 - 1)
        except (OSError, ValueError) as error:
            raise UserError(path, f"cannot be used: {error}", "remove it") from error
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def _steps_of_all(own: list[int]) -> list[set[int]]:
    """The steps that each process supplies, by process index."""
    row = np.full(KEPT + 1, -1, np.int32)  # a process that was killed may have kept one more
    row[: min(len(own), row.size)] = sorted(own, reverse=True)[: row.size]
    rows = multihost_utils.process_allgather(row) if jax.process_count() > 1 else row[None]
    return [{int(step) for step in row if step >= 0} for row in rows]


def _broadcast(piece: Piece, data: np.ndarray | None, source: int) -> np.ndarray:
    """A piece as `source` has it, in all processes; as bytes, since sums would lose -0.0."""
    if data is None:
        data = np.zeros(piece.shape, piece.dtype)
    raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
    is_source = jax.process_index() == source
    received = np.asarray(multihost_utils.broadcast_one_to_all(raw, is_source=is_source))
    return received.view(piece.dtype).reshape(piece.shape)
