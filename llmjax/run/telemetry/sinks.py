"""Sinks for metrics: JSON lines, TensorBoard, Weights & Biases."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from llmjax.errors import UserError
from llmjax.storage.json_documents import json_lines
from llmjax.storage.writing import write_atomically

Record = Mapping[str, Any]
"""A record of metrics: "step", "kind", and values by name, which may be None."""


class Sink(Protocol):
    """Receives records of metrics."""

    def write(self, record: Record) -> None: ...

    def rewind(self, step: int) -> None:
        """Removes what lies beyond a step, from which the run trains again."""

    def close(self) -> None: ...


class JsonLines:
    """A file with a JSON object per line, flushed after each line."""

    def __init__(self, path: Path, last_step: int):
        """Opens `path` for appending; lines beyond `last_step`, and incomplete ones, are removed.

        Raises:
          UserError: the file cannot be written.
        """
        self._path = path
        self._open(last_step)

    def _open(self, last_step: int) -> None:
        path = self._path
        try:
            write_atomically(path, b"".join(_lines_until(path, last_step)))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror}") from error

    def rewind(self, step: int) -> None:
        """See Sink.

        Raises:
          UserError: the file cannot be written.
        """
        self.close()
        self._open(step)

    def write(self, record: Record) -> None:
        """Appends a line.

        Raises:
          UserError: it cannot be written, as on a full disk.
        """
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(self._path, f"cannot be written: {error.strerror}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, reported by `write`
            self._file.close()


def _lines_until(path: Path, last_step: int) -> Iterator[bytes]:
    if not path.is_file():
        return
    for line, record in json_lines(path):
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int) and step <= last_step:
            yield line.rstrip(b"\r\n") + b"\n"


class TensorBoard:
    """Event files for TensorBoard: a curve for each metric, named KIND/METRIC."""

    def __init__(self, folder: Path, last_step: int):
        """Raises:
        UserError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            fix = "pip install 'llmjax[tensorboard]', or set log.tensorboard to false"
            raise UserError("log.tensorboard", "tensorboardX is not installed", fix) from error
        self._new_writer = lambda step: SummaryWriter(str(folder), purge_step=step + 1)
        self._writer = self._new_writer(last_step)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._new_writer(step)

    def write(self, record: Record) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run on wandb.ai, or offline if wandb's environment variables say so."""

    def __init__(self, project: str, run_folder: Path, config: Mapping[str, Any]):
        """Raises:
        UserError: wandb is not installed, or refuses the login.
        """
        try:
            import wandb
        except ImportError as error:
            fix = "pip install 'llmjax[wandb]', or set log.wandb to none"
            raise UserError("log.wandb", "wandb is not installed", fix) from error
        try:
            self._run = wandb.init(
                project=project,
                name=run_folder.name,
                id=run_folder.name,
                dir=str(run_folder),
                config=dict(config),
                resume="allow",
            )
        except wandb.errors.Error as error:
            reason = f"wandb refused: {str(error).splitlines()[0]}"
            raise UserError("log.wandb", reason, "log in, or set WANDB_MODE=offline") from error

    def write(self, record: Record) -> None:
        self._run.log(scalars(record), step=record["step"])

    def rewind(self, step: int) -> None:
        pass  # wandb has no way to: it ignores records until a run is where it was

    def close(self) -> None:
        self._run.finish()


def scalars(record: Record) -> dict[str, float]:
    """The numbers of a record, named KIND/METRIC."""
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    }
