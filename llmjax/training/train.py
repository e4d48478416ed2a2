"""The verb `train`: a config in, a run folder out."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax

from llmjax.data.loader import Loader
from llmjax.errors import Stopped
from llmjax.parallel.distributed import Link, Work
from llmjax.parallel.memory import TRAINING, enough_memory
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import read_params, wait_for_all
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.telemetry.display import to_stderr
from llmjax.state import TrainState, Tree, abstract_state, join, split, state_of
from llmjax.training.initialization import first_params, freeze, frozen_params, resolve_init_from
from llmjax.training.processes import check_same_config, start_devices
from llmjax.training.reporter import Reporter
from llmjax.training.session import Session, check_memory, open_session
from llmjax.training.stopping import StartStatus, StoppedEarly, StopSignal
from llmjax.training.trainer import Trainer

log = logging.getLogger(__name__)


class NewFolder:
    """The run folder as it was before a start; look at it before the folder is made."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    @contextlib.contextmanager
    def kept_if(self, standing: StartStatus) -> Iterator[None]:
        """Removes what the block makes, if it fails before a step has been trained."""
        try:
            yield
        except BaseException:
            self.remove(standing)
            raise

    def remove(self, standing: StartStatus) -> None:
        """Removes what was made since, unless the run was trained, by this start or before; what
        was there before stays, whatever it is."""
        run = Run(self._folder)
        logged = run.metrics.is_file() and run.metrics.stat().st_size > 0
        if standing.trained or run.steps() or logged or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name in self._before:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something of another's is in it by now
            for path in self._missing:
                path.rmdir()


def train(config: Config) -> Path:
    """Trains a model, or resumes the run in its folder.

    A resumed run takes the same batches as one that was never interrupted, on any mesh and any
    number of processes; on the same mesh its parameters are the same, bit for bit.

    Args:
      config: everything that decides the run. With several processes, each calls this with the
        same one, on a file system that all share.

    Returns:
      The run folder.

    Raises:
      UserError: the config, the data, the devices or the folder cannot be used; or memory runs out.
      Stopped: SIGTERM or SIGINT came; the step is saved, and the same call resumes from it.
      KeyboardInterrupt: a second one came; what was trained since the last checkpoint is lost.
    """
    with StopSignal(StartStatus()) as signal:
        try:
            config = validate(resolve_init_from(config))
            return _joined(config, signal, start_devices(config))
        except StoppedEarly:
            raise _nothing_trained(signal) from None


def _joined(config: Config, signal: StopSignal, link: Link | None) -> Path:
    """Trains as one of several processes, or alone."""
    standing, folder = signal.standing, NewFolder(Path(config.run_dir))
    if link is None:
        return _in_folder(config, signal, folder)

    def clean() -> None:
        if jax.process_index() == 0:
            folder.remove(standing)

    work = Work(lambda: f"at step {standing.step}", standing.resumes, signal.tell, clean)
    with link.during(work):
        try:
            return _in_folder(config, signal, folder)
        except StoppedEarly:
            raise _nothing_trained(signal) from None


def _nothing_trained(signal: StopSignal) -> Stopped:
    return Stopped(signal.standing.saved, signal.name or "a signal", trained=False, alone=True)


def _in_folder(config: Config, signal: StopSignal, folder: NewFolder) -> Path:
    check_same_config(config)
    if jax.process_index() > 0:
        wait_for_all("run folder there")
        with enough_memory(TRAINING):
            return _train(config, Run(Path(config.run_dir)), signal)
    run = Run.create(config)
    with run.lock(), folder.kept_if(signal.standing), enough_memory(TRAINING):
        wait_for_all("run folder there")
        return _train(config, run, signal)


def _train(config: Config, run: Run, signal: StopSignal) -> Path:
    standing = signal.standing
    standing.saved = max(run.steps(), default=None)
    session = open_session(config, run)
    with Checkpoints(run.checkpoints, config.checkpoint) as checkpoints, jax.set_mesh(session.mesh):
        state, progress, frozen = _start(session, checkpoints)
        standing.step = progress.step
        standing.saved = max(run.steps(), default=None)
        if not progress.step:
            params = join(state.params, frozen)
            workload = session.workload.before_first_step(params, session.mesh)
            if workload is not session.workload:
                session = replace(session, workload=workload)
                progress = session.progress(0)
        if session.leads:
            session.workload.write_metadata(run)
        wait_for_all("task metadata")
        if _is_done(session, progress):
            return run.folder
        reporter = Reporter(session, progress.step)
        signal.say = reporter.announce
        try:
            with Loader(
                session.workload.feed(),
                session.mesh,
                progress.step,
                prefetch=config.data.prefetch,
                stops=session.workload.is_finite,
            ) as loader:
                loop = Trainer(
                    session, state, progress, checkpoints, reporter, loader, frozen, signal
                )
                loop.run()
        finally:
            signal.say = to_stderr
            reporter.close()
    return run.folder


def _is_done(session: Session, progress: TrainProgress) -> bool:
    """Whether a run has come to its end before; says where one goes on."""
    step, over = progress.step, progress.is_over(session.config.evaluation.patience)
    due = progress.evaluation_due or progress.samples_due
    ended = (step >= session.steps or over) and not due
    if session.leads and ended:
        why = "no longer gets better" if over else f"all {session.steps} steps are done"
        log.warning("%s: %s already", session.run.folder, why)
    elif session.leads and step:
        rest = ", where an evaluation is still due" if due else ""
        log.warning(
            "%s: resuming from step %d of %d%s", session.run.folder, step, session.steps, rest
        )
    return ended


def _start(session: Session, checkpoints: Checkpoints) -> tuple[TrainState, TrainProgress, Tree]:
    """The newest complete checkpoint; or step 0, with the parameters of an import, of init_from, or
    new ones. And the frozen parameters."""
    network, optimizer, mesh = session.network, session.optimizer, session.mesh
    abstract = abstract_state(network, optimizer, mesh, session.trainable)
    check_memory(abstract, mesh)
    restored = checkpoints.restore(abstract)
    if restored is not None:
        session.check_same_batches(restored[1])
        return *restored, _frozen(session)
    if checkpoints.steps():
        step = checkpoints.steps()[-1]  # whole: `restore` has set others aside
        with jax.set_mesh(mesh):
            whole = network.abstract_params()
        params = read_params(checkpoints.folder, step, whole)
    else:
        params = first_params(session.config, network, mesh)
    trained, rest = split(params, session.trainable)
    with jax.set_mesh(mesh):
        frozen = freeze(session.run, session.model.compute.dtype, network, rest) if rest else {}
    return state_of(optimizer, trained, mesh), session.progress(0), frozen


def _frozen(session: Session) -> Tree:
    """The parameters that are not trained, as written at the start."""
    if not session.is_partial:
        return {}
    with jax.set_mesh(session.mesh):
        rest = split(session.network.abstract_params(), session.trainable)[1]
    return frozen_params(session.run, rest, session.mesh)
