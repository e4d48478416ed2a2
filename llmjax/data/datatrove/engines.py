"""Runs a stage to its end with each of datatrove's executors, and keeps them quiet."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import multiprocess
from datatrove.executor import (
    LocalPipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
)

from llmjax.data.datatrove.library import hear_warnings
from llmjax.data.datatrove.stage import Stage
from llmjax.errors import UserError

_POLL_SECONDS = 1.0
_DEAD = "DependencyNeverSatisfied"
_IMPORTED_ONCE = ["llmjax.data.datatrove.engines", "llmjax.data.datatrove.steps"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps executors from printing, who set up the messages again with each task."""
    hear_warnings()
    try:
        yield
    finally:
        hear_warnings()


class _Local(LocalPipelineExecutor):
    """Its tasks write to their log files alone."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> Any:
        with contextlib.redirect_stderr(io.StringIO()):
            return super()._run_for_rank(rank, local_rank, node_rank)


def run_local(stage: Stage, workers: int) -> Any:
    """Runs a stage with so many processes of this machine."""
    # The processes of all stages are forked from one, which imports the libraries once.
    multiprocess.get_context("forkserver").set_forkserver_preload(_IMPORTED_ONCE)
    executor = _Local(
        list(stage.pipeline), tasks=stage.tasks, workers=workers, logging_dir=str(stage.logs)
    )
    with _quiet():
        executor.run()
    return executor


class _Slurm(SlurmPipelineExecutor):
    """Without the job that sums up statistics, which would wait for failed tasks forever."""

    def launch_merge_stats(self) -> None:
        pass


def run_slurm(stage: Stage, workers: int, env_command: str | None, **options: Any) -> Any:
    """Submits a stage's tasks, so many at a time, and waits until they have left the queue.

    If it is interrupted, the jobs are cancelled.

    Raises:
      UserError: SLURM refuses the jobs.
    """
    executor = _Slurm(
        list(stage.pipeline),
        tasks=stage.tasks,
        workers=workers,
        job_name=f"llmjax-{stage.name}",
        env_command=env_command or f'export PATH="{Path(sys.executable).parent}:$PATH"',
        logging_dir=str(stage.logs),
        **options,
    )
    try:
        with _quiet():
            executor.run()
    except subprocess.CalledProcessError as error:
        raise UserError("sbatch", "refused the job", "see its message above") from error
    if executor.job_id != -1:  # else all tasks were completed
        _wait_for_job(str(executor.job_id))
    return executor


def _wait_for_job(job: str) -> None:
    command = ["squeue", "--noheader", "--jobs", job, "--format=%r"]
    try:
        while True:
            listed = subprocess.run(command, capture_output=True, text=True)
            waiting = listed.stdout.split()  # empty, too, once the job is forgotten
            if not waiting or all(reason == _DEAD for reason in waiting):
                return
            time.sleep(_POLL_SECONDS)
    finally:
        subprocess.run(["scancel", job], capture_output=True)


def run_ray(stage: Stage, workers: int, address: str, memory_gb: float) -> Any:
    """Runs a stage on a Ray cluster, so many tasks at a time.

    Raises:
      UserError: there is no cluster at the address.
    """
    import ray

    variables = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level="error",
        )
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        reason = f"no cluster answers: {(str(error).splitlines() or [type(error).__name__])[0]}"
        fix = "start one with `ray start --head`, or give --executor.address"
        raise UserError(f"Ray at {address}", reason, fix) from error
    executor = RayPipelineExecutor(
        list(stage.pipeline),
        tasks=stage.tasks,
        workers=workers,
        logging_dir=str(stage.logs),
        mem_per_cpu_gb=memory_gb,
    )
    try:
        with _quiet():
            executor.run()
    finally:
        ray.shutdown()
    return executor
