"""Checkpoints on the local disks of the processes, for restarts on the same machines.

Each process writes the shards of its own devices. A restart on the same mesh takes from other
processes what one has lost, as far as they hold replicas, and finds what another process has
written to this machine's disk, as after a restart that numbers the machines in another way.
(Orbax's emergency checkpoints know replicas over whole slices only.)
"""

import json
import logging
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from llmjax.errors import UserError
from llmjax.parallel.distributed.texts import text_of, texts_of_all
from llmjax.run.checkpoint import local_files
from llmjax.run.checkpoint.local_files import LocalPart
from llmjax.run.checkpoint.progress import TrainProgress, progress_of
from llmjax.run.checkpoint.shards import Piece, Shards
from llmjax.storage.json_documents import parse_json
from llmjax.storage.writing import write_atomically

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """A part of a local checkpoint, as processes name it to each other."""

    step: int
    start: int
    process: int


def _key(part: LocalPart) -> Key:
    return Key(part.step, part.start, part.process)


class LocalCheckpoints:
    """Saves and restores the shards of this process. All processes call each method."""

    def __init__(self, local_dir: str, run_id: int, run_folder: Path):
        """Args:
        local_dir: a folder on this process's disk.
        run_id: identifies the run, the same in all its processes.
        run_folder: the run folder.

        Raises:
          UserError: the folder cannot be written.
        """
        self._run = Path(local_dir).expanduser().absolute() / f"{run_id:08x}"
        self.folder = self._run / f"process_{jax.process_index()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(".*"):  # left by an interrupted save
                path.unlink()
            local_files.claim(self._run, run_folder)
        except OSError as error:
            raise UserError(self.folder, f"cannot be written: {error.strerror}") from error
        self._start = int(text_of(0, str(int(time.time()))))
        self._thread = ThreadPoolExecutor(1, "local_checkpoint")
        self._written: Future[None] | None = None

    def save(self, state: Any, progress: TrainProgress) -> None:
        """Copies this process's shards and returns; they are written in the background.

        Raises:
          UserError: the previous save could not be written, or the disk has no room for this one.
        """
        self.wait()
        shards = Shards(state)
        local_files.check_local_space(self._run, shards.local_bytes)
        pieces = shards.copy_local()
        self._written = self._thread.submit(
            local_files.write_part, self.folder, pieces, shards.fingerprint, progress, self._start
        )

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
          UserError: it cannot be written.
        """
        self.wait()
        for part in local_files.parts(self._run):
            if part.process == jax.process_index() and part.step == progress.step:
                try:
                    part.with_progress(progress)
                except OSError as error:
                    problem = f"cannot be written: {error.strerror or error}"
                    raise UserError(part.path, problem) from error

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
        own = {
            _key(part): part
            for part in local_files.parts(self._run)
            if part.document["fingerprint"] == shards.fingerprint and part.step > newer_than
        }
        held = _of_all(own)
        newest = max((key for keys in held for key in keys), default=None)
        while (chosen := _choose(held, shards)) is not None:
            mine = [own[key] for key, reader in chosen.items() if reader == jax.process_index()]
            damaged = _of_all(_key(part) for part in mine if not part.is_intact())
            if not any(damaged):
                return _read(shards, chosen, mine)
            held = [keys - lost for keys, lost in zip(held, damaged, strict=True)]
        if newest is not None and jax.process_index() == 0:
            found = {key.process for keys in held for key in keys if key[:2] == newest[:2]}
            lost = sorted(set(range(jax.process_count())) - found)
            log.warning(
                "local checkpoint %d lacks shards that only process %s held; resuming from %s",
                newest.step,
                ", ".join(map(str, lost)),
                "the start" if newer_than < 0 else f"checkpoint {newer_than} of the run folder",
            )
        return None


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


def _of_all(keys: Iterable[Key]) -> list[set[Key]]:
    """The keys that each process gives, by process index."""
    texts = texts_of_all(json.dumps(list(keys)))
    return [{Key(*key) for key in parse_json(text, "keys")} for text in texts]


def _choose(held: Sequence[set[Key]], shards: Shards) -> dict[Key, int] | None:
    """The parts of the newest complete checkpoint, each with the process that reads it: the one
    that wrote it, or else the first that finds it; None if no checkpoint is complete.

    Args:
      held: the parts that each process finds on its disk.
      shards: their layout.
    """
    readers: dict[tuple[int, int], dict[Key, int]] = {}
    for reader, keys in enumerate(held):
        for key in keys:
            chosen = readers.setdefault(key[:2], {})
            if key not in chosen or reader == key.process:
                chosen[key] = reader
    for _, chosen in sorted(readers.items(), reverse=True):
        if shards.is_complete(key.process for key in chosen):
            return chosen
    return None


def _read(
    shards: Shards, chosen: Mapping[Key, int], mine: Sequence[LocalPart]
) -> tuple[Any, TrainProgress]:
    """Reads pieces, exchanges those that this process or another lacks, and places all on the
    devices.

    Args:
      shards: the layout.
      chosen: the parts of a checkpoint, with the process that reads each.
      mine: those that this process reads.
    """
    read: dict[str, np.ndarray] = {}
    for part in mine:
        read |= part.read()
    for source, piece in shards.lost({key.process: reader for key, reader in chosen.items()}):
        data = read[piece.name] if jax.process_index() == source else None
        received = _broadcast(piece, data, source)
        if shards.needs(piece.name):
            read.setdefault(piece.name, received)
    text = json.dumps(asdict(mine[0].progress) if mine else {})
    progress = progress_of(parse_json(text_of(min(chosen.values()), text), "progress"))
    return shards.place(read), progress


def _broadcast(piece: Piece, data: np.ndarray | None, source: int) -> np.ndarray:
    """A piece as `source` has it, in all processes; as bytes, since sums would lose -0.0."""
    if data is None:
        data = np.zeros(piece.shape, piece.dtype)
    raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
    is_source = jax.process_index() == source
    received = np.asarray(multihost_utils.broadcast_one_to_all(raw, is_source=is_source))
    return received.view(piece.dtype).reshape(piece.shape)
