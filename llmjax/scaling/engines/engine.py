"""Engines: what trains the rows of a ladder, and the registry.

An engine is a frozen dataclass of its settings. To add one, add a file with such a class and a line
here.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

from llmjax.errors import HUNG, INTERRUPTED, STOPPED, Stopped, UserError
from llmjax.registry import Registry

Done = Callable[[int, int], None]
"""Called with the index of a row that ended, and its exit code."""


@dataclass(frozen=True)
class Engine(ABC):
    """Trains rows, each by `command`, and waits for all."""

    @abstractmethod
    def run(self, folder: Path, rows: Sequence[str], done: Done) -> list[int]:
        """Trains rows of a ladder's folder.

        Args:
          folder: seen by all machines.
          rows: their names, as `llmjax scale FOLDER --row NAME` takes them.
          done: called when a row ends.

        Returns:
          The exit code of each row.

        Raises:
          UserError: a program or library is missing, or the cluster refuses.
        """


def command(folder: Path, row: str) -> list[str]:
    """The command that trains a row."""
    return [sys.executable, "-m", "llmjax", "scale", str(folder.absolute()), "--row", row]


def log_file(folder: Path, row: str) -> Path:
    """Where a row's output goes."""
    return folder / "logs" / f"{row}.log"


def check_codes(folder: Path, rows: Sequence[str], codes: Sequence[int]) -> None:
    """Raises what the rows' exit codes say, the worst first.

    Raises:
      UserError: a row failed; the message names its log.
      Stopped: rows were stopped by a signal; the same command continues.
    """
    stops = {STOPPED, INTERRUPTED, HUNG, 0}
    for row, code in zip(rows, codes, strict=True):
        if code not in stops:
            last = _last_line(log_file(folder, row))
            reason = f"failed with exit code {code}" + (f": {last}" if last else "")
            raise UserError(f"row {row}", reason, f"see {log_file(folder, row)}")
    if any(codes):
        raise Stopped(None, "a signal", trained=False)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:300] if lines else ""


ENGINES = Registry[Engine](
    "engine",
    {
        "local": "llmjax.scaling.engines.local:LocalEngine",
        "slurm": "llmjax.scaling.engines.slurm:SlurmEngine",
        "ray": "llmjax.scaling.engines.ray_tasks:RayEngine",
    },
)
AnyEngine: TypeAlias = Annotated[Engine, ENGINES]
"""Type of options that take any engine."""
