"""Rows as tasks of a Ray cluster."""

import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmjax.errors import UserError
from llmjax.scaling.engines.engine import Done, Engine, command, log_file


@dataclass(frozen=True)
class RayEngine(Engine):
    """Tasks of a Ray cluster, one for each row; needs the extra `ray`. All nodes need llmjax and
    find the cache and the ladder's folder at the same path."""

    address: str = "auto"
    """Of the cluster; local starts one on this machine."""
    cpus: float = 1
    """CPU cores of a row."""
    gpus: float = 0
    """GPUs of a row."""
    kind: Literal["ray"] = "ray"

    def run(self, folder: Path, rows: Sequence[str], done: Done) -> list[int]:
        if importlib.util.find_spec("ray") is None:
            fix = "pip install 'llmjax[ray]'"
            raise UserError("--engine ray", "Ray is not installed", fix)
        import ray

        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--engine.address {self.address}", reason) from error
        try:
            task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=2)(train_row)
            waiting = {task.remote(str(folder.absolute()), row): i for i, row in enumerate(rows)}
            codes = [0] * len(rows)
            while waiting:
                (finished,), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(finished)
                codes[index] = _result(ray, finished)
                done(index, codes[index])
        finally:
            ray.shutdown()
        return codes


def train_row(folder: str, row: str) -> int:
    """Trains a row where Ray put it; returns the exit code."""
    path = log_file(Path(folder), row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        code = subprocess.call(command(Path(folder), row), stdout=log, stderr=log)
    return code if code >= 0 else 128 - code


def _result(ray: object, task: object) -> int:
    """A task's exit code; 1 if its node died more often than it is retried."""
    try:
        code: int = ray.get(task)  # type: ignore[attr-defined]
    except (ray.exceptions.RayError, OSError):  # type: ignore[attr-defined]
        return 1
    return code
