"""Where metrics go: a line of JSON each, TensorBoard, Weights & Biases."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from llmjax.errors import UserError
from llmjax.storage.json_documents import json_lines
from llmjax.storage.writing import write_atomically

Record = Mapping[str, Any]
"""A line of metrics: "step", "kind" and figures; figures may be None."""


class Sink(Protocol):
    """Takes records of metrics, one after the other."""

    def write(self, record: Record) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """A file with a JSON object per line, complete up to the last line at any moment."""

    def __init__(self, path: Path, last_step: int):
        """Opens `path` to go on after `last_step`: later lines, and torn ones, are removed.

        Raises:
          UserError: the file cannot be written.
        """
        self._path = path
        try:
            write_atomically(path, b"".join(_lines_until(path, last_step)))
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in close)
        except OSError as error:
            raise UserError(path, f"cannot be written: {error.strerror}") from error

    def write(self, record: Record) -> None:
        """Adds a line.

        Raises:
          UserError: there is no room for it.
        """
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(self._path, f"cannot be written: {error.strerror}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which was told of before
            self._file.close()


def _lines_until(path: Path, last_step: int) -> Iterator[bytes]:
    if not path.is_file():
        return
    for line, record in json_lines(path):
        step = record.get("step") if isinstance(record, dict) else None
        if isinstance(step, int) and step <= last_step:
            yield line.rstrip(b"\r\n") + b"\n"


class TensorBoard:
    """Event files for TensorBoard: a curve for each figure, named KIND/FIGURE."""

    def __init__(self, folder: Path, last_step: int):
        """Raises:
        UserError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            fix = "pip install 'llmjax[tensorboard]', or set log.tensorboard to false"
            raise UserError("log.tensorboard", "tensorboardX is not installed", fix) from error
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, record: Record) -> None:
        for name, value in figures(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run on wandb.ai (or offline, as its own environment variables say)."""

    def __init__(self, project: str, run_folder: Path, config: Mapping[str, Any]):
        """Raises:
        UserError: wandb is not installed, or does not let us in.
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
        self._run.log(figures(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


def figures(record: Record) -> dict[str, float]:
    """The numbers of a record, as KIND/FIGURE."""
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if name not in ("step", "time") and isinstance(value, int | float)
    }
