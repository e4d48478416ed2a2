"""The run folder: its files, and the checks when it is opened, created or resumed.

config.json       the complete resolved config, with llmjax's version and a format number
tokenizer/        everything needed to encode and decode
checkpoints/STEP/ finished checkpoints
frozen/0/         frozen parameters, where there are any
tasks.json        task metadata, such as labels, from the training set
metrics.jsonl     a line per logged step
samples.jsonl     text generated while training
environment.json  versions, machine and command of every start, and counts of the data
measures.json     the tasks' latest metrics, tables and worst mistakes
compression.json  sizes of the last archive, and the costs of its tokens
baselines.json    classical compressors on the validation text
goodput.json      what the wall time was spent on
tensorboard/  profile/  report.html
origin.json       where an imported model comes from, and its own config
"""

import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from llmjax.errors import UserError
from llmjax.run.config.checks import added_parts, blocking_differences
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import read, to_json
from llmjax.run.remote.objects import is_fetched_later, visible
from llmjax.storage.json_documents import DOCUMENT, json_lines, json_text, read_json
from llmjax.storage.stores.mirror import address_of, local_copy, write_back
from llmjax.storage.stores.path import StorePath, location
from llmjax.storage.writing import check_utf8, write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """An existing run folder. Use `Run.open` to read one, `Run.create` to train in one.

    It is a path too: `open(run)`-like functions, and those of llmjax, take it as its folder.
    """

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def address(self) -> str:
        """The folder's path, or its address in a bucket."""
        return address_of(self.folder)

    def publish(self) -> None:
        """Makes what process 0 has written visible to other hosts; nothing in a local folder,
        which all processes share.

        Raises:
          UserError: the bucket cannot be written, or another training has taken the run over.
        """

    def refresh(self) -> None:
        """Makes what process 0 has published visible in this process; nothing in a local folder.

        Raises:
          UserError: the bucket cannot be read.
        """

    def check_lock(self) -> None:
        """Checks that no other training has taken the run over, as one can in a bucket.

        Raises:
          UserError: one has.
        """

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's folder."""
        return self.folder / "tokenizer"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, a folder for each step."""
        return self.folder / "checkpoints"

    @property
    def frozen(self) -> Path:
        """The frozen parameters, as a checkpoint of step 0; missing if there are none."""
        return self.folder / "frozen"

    @property
    def tasks(self) -> Path:
        """Metadata of the tasks; missing if the run has none."""
        return self.folder / "tasks.json"

    @property
    def measures(self) -> Path:
        """The latest evaluation of each task, as JSON."""
        return self.folder / "measures.json"

    @property
    def compression(self) -> Path:
        """The results of the last compression, as JSON; see `llmjax.compression.results`."""
        return self.folder / "compression.json"

    @property
    def metrics_file(self) -> Path:
        """The logged metrics, a JSON object per line."""
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.folder / "samples.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def goodput(self) -> Path:
        return self.folder / "goodput.json"

    @property
    def profile(self) -> Path:
        return self.folder / "profile"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @classmethod
    def open(cls, folder: str | PathLike[str]) -> "Run":
        """The run at `folder`. Of one in a bucket, a local copy, to which the values of checkpoints
        are fetched when they are read.

        Raises:
          UserError: there is no such folder, or it has no config.json; or a bucket cannot be read.
        """
        path = local_folder(folder)
        try:
            exists = path.exists()
        except OSError as error:
            raise UserError(path, error.strerror or str(error)) from error
        if not exists:
            raise UserError(path, "no such run folder", _runs_in(path.parent, Path("runs")))
        if not path.is_dir():
            raise UserError(path, "is a file, not a run folder")
        if not (path / "config.json").is_file():
            raise UserError(path, "is not a run folder: it has no config.json", _runs_in(path))
        return cls(path)

    @classmethod
    def create(cls, config: Config) -> "Run":
        """The run folder of `config`: a new one, or that of a run to resume; see `prepare`."""
        run = cls(Path(config.run_dir))
        run.prepare(config)
        return run

    def prepare(self, config: Config) -> None:
        """Creates the folder with its config, or checks that the run in it can resume with it.

        The stored config must be equal up to the fields in MAY_CHANGE, whose new values are then
        stored. A run without a finished step (because its data could not be read, say) accepts any
        config; an imported model accepts any config for text with the same model and tokenizer.

        Raises:
          UserError: the folder cannot be written, or holds other files or a run of another config.
        """
        changed = list[str]()
        check_utf8(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.config_path.is_file():
                self._check_empty()
            elif (stored := self.config()) == config:
                return
            elif (
                changed := blocking_differences(stored, config, max(self.steps(), default=0))
            ) and not self._is_imported(stored, config):
                self._check_untrained(changed)
            with self.lock():
                if changed and not self.steps():
                    shutil.rmtree(self.tokenizer, ignore_errors=True)  # of the old config
                write_atomically(self.config_path, to_json(config))
        except OSError as error:
            raise UserError(
                error.filename or self.folder,
                f"cannot be written: {error.strerror or error}",
                "choose another --run-dir",
            ) from error

    def stored_config(self) -> str | None:
        """The text of the stored config, for `put_back`; None: there is none."""
        return self.config_path.read_text() if self.config_path.is_file() else None

    def put_back(self, config: str | None) -> None:
        """Stores what `stored_config` returned, for a start that is refused."""
        if config is not None and config != self.stored_config():
            write_atomically(self.config_path, config)

    def _check_empty(self) -> None:
        names = sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")
        if names:
            raise UserError(
                self.address,
                f"is not empty and not a run folder: it holds {', '.join(names[:3])}",
                "choose another --run-dir",
            )

    def _is_imported(self, stored: Config, config: Config) -> bool:
        """Whether this is an untrained import whose model and tokenizer the config keeps."""
        if self.steps() != [0] or not (self.folder / "origin.json").is_file():
            return False
        if parts := added_parts(stored, config):
            raise UserError(
                self.address,
                f"is an imported model, to which {', '.join(parts)} cannot be added",
                f"start another run: --init-from {self.address} --run-dir runs/NAME",
            )
        names = (change.split(" ")[0] for change in blocking_differences(stored, config))
        return not any(name.startswith(("model.", "tokenizer")) for name in names)

    def _check_untrained(self, changed: list[str]) -> None:
        if self.steps() or (self.metrics_file.exists() and self.metrics_file.stat().st_size):
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
            raise UserError(
                self.address,
                f"holds a run of another config ({'; '.join(changed[:5])}{more})",
                "choose another --run-dir, or leave these fields as they were",
            )

    def config(self) -> Config:
        """The stored config.

        Raises:
          UserError: it cannot be read, or is of a format that this version does not know.
        """
        return read(self.config_path)

    def records(self) -> Iterator[dict[str, Any]]:
        """The logged records of metrics, of training and of evaluations, in order."""
        lines = json_lines(self.metrics_file) if self.metrics_file.is_file() else ()
        return (line for _, line in lines if isinstance(line, dict))

    def metrics(self, kind: Literal["train", "eval"] = "train") -> dict[str, list[Any]]:
        """The logged metrics as columns, for `pandas.DataFrame(run.metrics())` and the like.

        Args:
          kind: of the training steps, or of the evaluations.

        Returns:
          Name -> values in order of steps, None where a record lacks one; "step" and "time" (in
          Unix seconds) first. Empty if nothing was logged.
        """
        records = [record for record in self.records() if record.get("kind") == kind]
        names = dict.fromkeys(("step", "time", *(name for record in records for name in record)))
        names.pop("kind", None)
        return {name: [record.get(name) for record in records] for name in names if records}

    def keep_measures(self, results: Mapping[str, Any]) -> None:
        """Stores evaluation results by task; those of other tasks stay.

        Raises:
          OSError: the folder cannot be written.
        """
        try:
            earlier = read_json(self.measures, limits=DOCUMENT)
        except UserError:
            earlier = {}
        merged = {**(earlier if isinstance(earlier, dict) else {}), **results}
        self.keep(self.measures, json_text(merged, indent=1) + "\n")

    def keep(self, file: Path, text: str) -> None:
        """Writes a file of this folder, and of the bucket that it is a copy of, if it is one; a
        bucket that cannot be written is only warned of.

        Raises:
          OSError: the folder cannot be written.
        """
        write_atomically(file, text)
        try:
            write_back(file)
        except UserError as error:
            log.warning("%s: written only to the local copy, %s", error, file)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, in order."""
        if not self.checkpoints.is_dir():
            return []
        names = (path.name for path in self.checkpoints.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the folder against other trainings.

        The kernel releases the lock when the process ends, even by kill -9.

        Raises:
          UserError: another process holds it, or the folder cannot be written.
        """
        path = self.folder / ".lock"
        try:
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise UserError(
                    self.folder,
                    f"another training writes here (process {owner})",
                    "wait for it, or choose another --run-dir",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def local_folder(folder: str | PathLike[str]) -> Path:
    """The folder, or the up-to-date local copy of one in a bucket.

    Raises:
      UserError: there is no such folder in the bucket, it is incomplete, or cannot be read.
    """
    path = location(os.fspath(folder))
    return local_copy(path, is_fetched_later, visible) if isinstance(path, StorePath) else path


def _runs_in(*folders: Path) -> str:
    """Names of the runs in the first of these folders that has any."""
    for folder in folders:
        if runs := sorted(path.parent.name for path in folder.glob("*/config.json")):
            return f"runs in {folder}: {', '.join(runs[:5])}"
    return ""
