"""The train steps of a session: a program for each task, compiled at its first use."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import jax

from llmjax.data.batch import Batch
from llmjax.parallel.compilation import accepted_options
from llmjax.parallel.host_memory import check_host_memory
from llmjax.parallel.mesh import platform_of
from llmjax.run.telemetry.goodput import Activity
from llmjax.state import TrainState, Tree
from llmjax.step import LossFunction, Step, StepMetrics, make_train_step
from llmjax.training.monitors import Monitors
from llmjax.training.replay import Replay
from llmjax.training.session import Session
from llmjax.training.stopping import StartStatus


class Steps:
    """Takes steps; computes those twice that the config says."""

    def __init__(
        self,
        session: Session,
        frozen: Tree,
        status: StartStatus,
        monitors: Monitors,
        paused: Callable[[Activity], AbstractContextManager[None]],
    ):
        """Args:
          session: the run.
          frozen: the frozen parameters.
          status: knows the newest checkpoint.
          monitors: of compilation and replay.
          paused: waits for the devices, and counts a block as an activity other than training.

        Raises:
          UserError: the devices do not compute the same bits twice.
        """
        self._programs = [_program(session, loss) for loss in session.workload.losses]
        self._frozen, self._status = frozen, status
        self._goodput, self._watchdog, self._stragglers = monitors
        self._paused = paused
        self._replay = Replay(session.config.replay.every, session.mesh)
        self._compiled = set[tuple[int, bool]]()

    def take(
        self, step: int, task: int, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        """Takes a step, without waiting for the devices unless it is computed twice.

        Args:
          step: its number, from 1.
          task: index of the workload's loss.
          state: the state before it, which is donated.
          batch: its batch.

        Raises:
          DataCorruption: it was computed twice, with different results.
        """
        program, is_replayed = self._programs[task], self._replay.is_due(step)
        with self._compiling(task, is_replayed):
            if is_replayed:
                return self._take_twice(step, program, state, batch)
            return program(state, batch, self._frozen)

    def _take_twice(
        self, step: int, program: Step, state: TrainState, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        with self._paused("replay"):
            expected = self._replay.expect(program, state, batch, self._frozen)
        result = jax.block_until_ready(program(state, batch, self._frozen))
        with self._goodput.spent("replay"):
            self._replay.check(step, expected, result, self._status.resumes())
        self._stragglers.restart()
        return result

    @contextlib.contextmanager
    def _compiling(self, task: int, is_replayed: bool) -> Iterator[None]:
        """Counts the block as compilation if it is the first of its kind."""
        if (task, is_replayed) in self._compiled:
            yield
            return
        with self._watchdog.off(), self._paused("compile"):
            yield
        self._stragglers.restart()
        self._compiled.add((task, is_replayed))


def _program(session: Session, loss: LossFunction) -> Step:
    config, platform = session.config, platform_of(session.mesh)
    if config.compute.offload:
        check_host_memory(session.mesh)
    return make_train_step(
        loss,
        session.optimizer,
        seed=config.seed,
        clip_norm=config.optimizer.clip_norm,
        accumulate=config.optimizer.accumulate,
        prepare=session.model.quantized_once,
        compiler_options=accepted_options(
            platform, config.compute.xla_options, session.mesh.devices.flat[0].device_kind
        ),
    )
