"""Replay: a step is computed twice from the same state and batch, and the bits are compared.

A device may compute wrong numbers without any error (silent data corruption: Dixit et al. 2021,
arXiv:2102.11245). Both computations run the same compiled program on the same devices, so that any
difference is the hardware's, or that of a program whose results vary from call to call. What is
wrong in the same way both times, or was wrong in the state before, is not found.
"""

import os
import socket
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from llmjax.data.batch import Batch
from llmjax.errors import DataCorruption, UserError
from llmjax.parallel.distributed.texts import texts_of_all
from llmjax.parallel.shard_checksums import shard_checksums
from llmjax.state import TrainState, Tree
from llmjax.step import Step, StepMetrics

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
SHOWN = 3
"""How many devices and arrays an error names."""


class Replay:
    """Computes steps once more and compares them; all processes call each method together.

    While a step is computed once more, the devices hold the state twice.
    """

    def __init__(self, every: int, mesh: Mesh):
        """Args:
          every: steps from one comparison to the next; 0: none.
          mesh: the devices.

        Raises:
          UserError: the platform's programs vary from call to call.
        """
        self._every, self._mesh = every, mesh
        platform = mesh.devices.flat[0].platform
        if every and platform == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
            reason = "sums on a GPU may differ from call to call, which would be a false alarm"
            raise UserError(f"replay.every {every}", reason, f"set XLA_FLAGS={DETERMINISTIC}")
        self._copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
        self._checksums = jax.jit(shard_checksums)
        self._compare = jax.jit(
            lambda a, b: jax.sharding.reshard(a != b, PartitionSpec())  # for every process
        )

    def is_due(self, step: int) -> bool:
        """Whether this step, counted from 1, is computed twice."""
        return self._every > 0 and step % self._every == 0

    def expect(self, compute: Step, state: TrainState, batch: Batch, frozen: Tree) -> jax.Array:
        """Computes the step from a copy of the state, which stays as it is; returns the checksums
        of the result, uint32 [devices, arrays]."""
        result = compute(self._copy(state), batch, frozen)
        return jax.block_until_ready(self._checksums(result))

    def check(
        self, step: int, expected: jax.Array, result: tuple[TrainState, StepMetrics], resumes: str
    ) -> None:
        """Compares the result of the step itself with what `expect` returned.

        Args:
          step: the number of the step, for the error.
          expected: from `expect`.
          result: the state and the metrics after the step.
          resumes: how to resume, for the error.

        Raises:
          DataCorruption: they differ, in every process.
        """
        differs = np.asarray(self._compare(self._checksums(result), expected))
        if not differs.any():
            return
        where = _where(self._mesh, differs.max(axis=1), texts_of_all(socket.gethostname()))
        arrays = zip(_paths(result), differs.max(axis=0), strict=True)
        what = _names([name for name, wrong in arrays if wrong])
        raise DataCorruption(
            f"step {step}, computed twice from the same state and batch, differs {where}, in "
            f"{what}; nothing of it was saved: check that hardware; {resumes}"
        )


def _where(mesh: Mesh, differs: np.ndarray, hosts: Sequence[str]) -> str:
    """Names the devices, with their processes and hosts."""
    devices = list(mesh.devices.flat)
    wrong = [device for device, differ in zip(devices, differs, strict=True) if differ]
    if len(wrong) == len(devices) > 1:
        return (
            f"on all {len(devices)} devices (one of them was wrong before they exchanged results; "
            "which one is not known)"
        )
    return "on " + _names(
        [
            f"device {device.id} of process {device.process_index} "
            f"(host {hosts[device.process_index]})"
            for device in wrong
        ]
    )


def _paths(result: tuple[TrainState, StepMetrics]) -> list[str]:
    """The names of the arrays, in order."""
    return [
        jax.tree_util.keystr(path, simple=True, separator=".").split(".", 1)[1]
        for path, _ in jax.tree.leaves_with_path(result)
    ]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
