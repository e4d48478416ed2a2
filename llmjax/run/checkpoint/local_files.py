"""The files of local checkpoints: LOCAL_DIR/RUN_ID/process_N/STEP.safetensors and STEP.json.

LOCAL_DIR/RUN_ID/run.json names the run folder: when a run starts over there, what it had left can
be told from the files of other runs.
"""

import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from llmjax.errors import UserError
from llmjax.run.checkpoint.progress import TrainProgress, progress_of
from llmjax.storage.checksums import check_checksum, file_checksums, with_checksum
from llmjax.storage.json_documents import read_json
from llmjax.storage.writing import write_atomically

log = logging.getLogger(__name__)

KEPT = 2
"""How many of the newest local checkpoints each process keeps."""
DAY = 24 * 3600.0
"""Seconds without use after which the files of an earlier run in the same folder are removed."""


@dataclass(frozen=True)
class LocalPart:
    """One process's part of a local checkpoint.

    Attributes:
      path: its STEP.json.
      process: which process's shards it holds.
      step: steps taken.
      start: when the start of the run that wrote it began; parts of other starts do not go with it.
      document: the JSON: checksum, layout of the shards and progress.
    """

    path: Path
    process: int
    step: int
    start: int
    document: dict[str, Any]

    @property
    def progress(self) -> TrainProgress:
        return progress_of(self.document["progress"])

    def is_intact(self) -> bool:
        """Verifies the shards; logs if they are damaged."""
        data = self.path.with_suffix(".safetensors")
        try:
            intact = file_checksums(data.parent, [data.name])[data.name] == self.document["sums"]
        except OSError:
            intact = False
        if not intact:
            _log_damage(self.path)
        return intact

    def read(self) -> dict[str, np.ndarray]:
        """The shards by name."""
        return load_file(self.path.with_suffix(".safetensors"))

    def with_progress(self, progress: TrainProgress) -> None:
        """Updates the progress.

        Raises:
          OSError: it cannot be written.
        """
        document = self.document | {"progress": asdict(progress)}
        write_atomically(self.path, json.dumps(with_checksum(document)))


def parts(run: Path) -> Iterator[LocalPart]:
    """The parts on this disk, whichever process wrote them; damaged JSON is logged and left out.

    Args:
      run: LOCAL_DIR/RUN_ID.
    """
    for path in sorted(run.glob("process_*/*.json")):
        process = re.fullmatch(r"process_(\d+)", path.parent.name)
        if process is None or not path.stem.isdecimal():
            continue
        try:
            document = check_checksum(read_json(path), path)
            step, start = progress_of(document["progress"]).step, int(document.get("start", 0))
            document["fingerprint"], document["sums"]
        except (OSError, UserError, AttributeError, KeyError, TypeError, ValueError):
            _log_damage(path)
            continue
        yield LocalPart(path, int(process[1]), step, start, document)


def _log_damage(path: Path) -> None:
    log.warning("local checkpoint %s is damaged; it is not used", path)


def write_part(
    folder: Path,
    pieces: dict[str, np.ndarray],
    fingerprint: int,
    progress: TrainProgress,
    start: int,
) -> None:
    """Writes a part, then removes older ones of this run, also those of other processes.

    Args:
      folder: LOCAL_DIR/RUN_ID/process_N.
      pieces: the shards by name.
      fingerprint: of their layout.
      progress: the progress at the step.
      start: when this start of the run began.

    Raises:
      OSError: it cannot be written.
    """
    step = progress.step
    unfinished, path = folder / f".{step}.safetensors", folder / f"{step}.json"
    save_file(pieces, unfinished)
    document = {
        "sums": file_checksums(folder, [unfinished.name])[unfinished.name],
        "fingerprint": fingerprint,
        "start": start,
        "progress": asdict(progress),
    }
    path.unlink(missing_ok=True)
    unfinished.rename(folder / f"{step}.safetensors")
    write_atomically(path, json.dumps(with_checksum(document)))
    _remove_older(folder)


def _remove_older(folder: Path) -> None:
    """Removes parts older than those that this process keeps. A process that has moved to another
    machine no longer does that itself."""
    kept = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())[-KEPT:]
    if len(kept) < KEPT:
        return
    for path in folder.parent.glob("process_*/*.json"):
        if path.stem.isdecimal() and int(path.stem) < kept[0]:
            path.unlink(missing_ok=True)
            path.with_suffix(".safetensors").unlink(missing_ok=True)


def check_local_space(run: Path, need: int) -> None:
    """Checks that this disk has room for another part.

    Args:
      run: LOCAL_DIR/RUN_ID.
      need: bytes of the part.

    Raises:
      UserError: it has not; names what other runs have left there.
    """
    free = shutil.disk_usage(run).free
    if free >= need:
        return
    others = [path for path in run.parent.iterdir() if path.is_dir() and path != run]
    held = sum(file.stat().st_size for path in others for file in path.rglob("*.safetensors"))
    left = f" ({run.parent} has {held / 1e6:,.1f} MB of {len(others)} other runs)" if held else ""
    raise UserError(
        run,
        f"No space left on device: {need / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB free",
        f"free some{left}, or set checkpoint.local_dir to another folder or to null",
    )


def claim(run: Path, run_folder: Path) -> None:
    """Marks the files as those of a run, and removes those of earlier runs in the same folder that
    have not been used for a day. Files of other runs stay: they may be in use.

    Args:
      run: LOCAL_DIR/RUN_ID.
      run_folder: the run folder.

    Raises:
      OSError: it cannot be written.
    """
    owner = str(run_folder.absolute())
    write_atomically(run / "run.json", json.dumps({"folder": owner}))
    for path in run.parent.glob("*/run.json"):
        try:
            is_earlier = path.parent != run and read_json(path)["folder"] == owner
            used = max(file.stat().st_mtime for file in path.parent.rglob("*"))
        except (OSError, UserError, KeyError, TypeError):
            continue
        if is_earlier and time.time() - used > DAY:
            log.warning("removing local checkpoints of an earlier run here: %s", path.parent)
            shutil.rmtree(path.parent, ignore_errors=True)
