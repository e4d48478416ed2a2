"""Where datatrove runs: the processes of this machine, SLURM or Ray.

Cheap to import: libraries are imported when a stage runs.
"""

import importlib.util
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from llmjax.data.datatrove.library import check_library
from llmjax.data.datatrove.stage import ERRORS, Stage
from llmjax.data.text.encoding import cpus
from llmjax.errors import UserError
from llmjax.registry import Registry


@dataclass(frozen=True)
class Executor(ABC):
    """Runs stages on datatrove."""

    def run(self, stage: Stage, workers: int) -> None:
        """Runs those tasks of a stage that are not marked as completed.

        Args:
          stage: what to run.
          workers: tasks at a time; 0: one per CPU of this machine, or all on a cluster.

        Raises:
          UserError: a library or program is missing, or tasks failed.
        """
        check_library()
        shutil.rmtree(stage.logs / ERRORS, ignore_errors=True)
        executor = self._start(stage, workers)
        if incomplete := executor.get_incomplete_ranks(skip_completed=True):
            raise _failure(stage, len(incomplete))

    @abstractmethod
    def _start(self, stage: Stage, workers: int) -> Any:
        """Runs the tasks to their end with a PipelineExecutor, and returns it."""


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Processes of this machine."""

    kind: Literal["local"] = "local"

    def _start(self, stage: Stage, workers: int) -> Any:
        from llmjax.data.datatrove.engines import run_local

        return run_local(stage, min(workers or cpus(), stage.tasks))


@dataclass(frozen=True)
class SlurmExecutor(Executor):
    """Array jobs of a SLURM cluster. The command runs on a login node and waits for them. Python,
    the text and the cache must lie where all nodes find them."""

    partition: str = ""
    """The partition of the jobs."""
    time: str = "24:00:00"
    """Time limit of a task."""
    memory_gb: int = 4
    """Memory of a task in GB."""
    qos: str | None = None
    """Quality of service of the jobs; None: the cluster's default."""
    setup: str = ""
    """Shell command before each task; empty: this Python is put first on the PATH."""
    kind: Literal["slurm"] = "slurm"

    def _start(self, stage: Stage, workers: int) -> Any:
        if not self.partition:
            raise UserError("--executor.partition", "missing", "name a partition that sinfo lists")
        if shutil.which("sbatch") is None:
            fix = "run the command on a login node of the cluster"
            raise UserError("executor slurm", "sbatch is not on the PATH", fix)
        from llmjax.data.datatrove.engines import run_slurm

        return run_slurm(
            stage,
            workers or -1,
            partition=self.partition,
            time=self.time,
            mem_per_cpu_gb=self.memory_gb,
            qos=self.qos,
            env_command=self.setup or None,
        )


@dataclass(frozen=True)
class RayExecutor(Executor):
    """Tasks on a Ray cluster. The text and the cache must lie where all nodes find them."""

    address: str = "auto"
    """Of the cluster; auto: $RAY_ADDRESS, or the one that runs on this machine."""
    memory_gb: float = 2.0
    """Memory that a task reserves in GB."""
    kind: Literal["ray"] = "ray"

    def _start(self, stage: Stage, workers: int) -> Any:
        if importlib.util.find_spec("ray") is None:
            raise UserError(
                "executor ray", "the package `ray` is not installed", "pip install 'llmjax[ray]'"
            )
        from llmjax.data.datatrove.engines import run_ray

        return run_ray(stage, workers or -1, self.address, self.memory_gb)


EXECUTORS = Registry[Executor](
    "executor",
    {
        "local": "llmjax.data.datatrove.executors:LocalExecutor",
        "slurm": "llmjax.data.datatrove.executors:SlurmExecutor",
        "ray": "llmjax.data.datatrove.executors:RayExecutor",
    },
)

AnyExecutor: TypeAlias = Annotated[Executor, EXECUTORS]
"""Type of options that take any executor."""


def _failure(stage: Stage, count: int) -> UserError:
    """The error of a stage of which so many tasks failed: the first user's mistake, if known."""
    for file in sorted((stage.logs / ERRORS).glob("*.txt")):
        return UserError(f"{stage.name}: {count} of {stage.tasks} tasks", file.read_text().strip())
    reason = f"{count} of {stage.tasks} tasks failed"
    fix = f"see {stage.logs}/logs; the same command runs them again"
    return UserError(stage.name, reason, fix)
