"""`train`: a config in, a run folder out."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax

from llmjax.data.loader import Loader
from llmjax.errors import Stopped, UserError
from llmjax.parallel.distributed import Link, Work
from llmjax.parallel.memory import TRAINING, enough_memory
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.checkpoint.remote import RemoteCheckpoints
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.run.remote.run import RemoteRun, RemoteStart
from llmjax.run.telemetry.display import to_stderr
from llmjax.run.telemetry.goodput import Goodput
from llmjax.run.telemetry.program import Program
from llmjax.state import join
from llmjax.storage.stores.path import is_store
from llmjax.training.dues import has_dues, is_over
from llmjax.training.initialization import resolve_init_from
from llmjax.training.monitors import Monitors
from llmjax.training.processes import check_same_config, share_with_all, start_devices
from llmjax.training.reporter import Reporter
from llmjax.training.restoring import restore_or_init
from llmjax.training.session import Session, open_session
from llmjax.training.stopping import StartStatus, StoppedEarly, StopSignal
from llmjax.training.stragglers import Stragglers
from llmjax.training.trainer import Trainer
from llmjax.training.watchdog import Watchdog

log = logging.getLogger(__name__)


class LocalStart:
    """Opens a local run folder, which all processes share, for a start of its training, and removes
    what a failed start leaves there. Create it before the folder."""

    def __init__(self, config: Config):
        self._config, self._folder = config, Path(config.run_dir)
        folder = self._folder
        self._missing = [path for path in (folder, *folder.parents) if not path.exists()]
        self._before = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        self._stored = Run(folder).stored_config()

    def join(self) -> Run:
        """The run in a process other than 0, when process 0 has created it."""
        return Run(self._folder)

    @contextlib.contextmanager
    def open(self, status: StartStatus) -> Iterator[Run]:
        """The run in process 0: created, or checked as one to resume, and locked. Cleans up if the
        block fails before a step has been trained; a start that is refused changes no config.

        Raises:
          UserError: as `Run.create` and `Run.lock`.
        """
        run = Run.create(self._config)
        with run.lock():
            try:
                yield run
            except BaseException as error:
                if isinstance(error, UserError) and not status.trained:
                    run.put_back(self._stored)
                self.remove(status)
                raise

    def remove(self, status: StartStatus) -> None:
        """Removes what was created since, unless the run was ever trained; earlier files stay."""
        run = Run(self._folder)
        logged = run.metrics_file.is_file() and run.metrics_file.stat().st_size > 0
        if status.trained or run.steps() or logged or not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name in self._before:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # no longer empty: another program's files
            for path in self._missing:
                path.rmdir()


def train(config: Config, program: Program | None = None) -> Run:
    """Trains a model, or resumes the run in its folder.

    A resumed run sees the same batches as an uninterrupted one, on any mesh and with any number of
    processes; on the same mesh its parameters are the same, bit for bit.

    Args:
      config: the run's config. With several processes, each calls this with the same config, on a
        shared file system or with the run folder in a bucket.
      program: this process, where it does nothing else: goodput counts all its time.

    Returns:
      The run; every function of llmjax that takes a run folder takes it too.

    Raises:
      UserError: the config, the data, the devices or the folder cannot be used; or memory runs out.
      Stopped: SIGTERM or SIGINT was received; the step is saved, and the same call resumes from it.
      KeyboardInterrupt: a second one was received; steps since the last checkpoint are lost.
    """
    if not isinstance(config, Config):
        fix = "llmjax.load_config_file reads a preset, a file or a run folder"
        raise UserError("config", f"{config!r} is not an llmjax.Config", fix)
    with StopSignal(StartStatus(program=program)) as signal:
        try:
            config = validate(resolve_init_from(config))
            return _in_process(config, signal, start_devices(config))
        except StoppedEarly:
            raise _nothing_trained(signal) from None


def _in_process(config: Config, signal: StopSignal, link: Link | None) -> Run:
    """Trains as one of several processes, or as the only one (no link)."""
    status, start = signal.status, _start_of(config)
    if link is None:
        return _in_folder(config, signal, start, None)

    def clean() -> None:
        if jax.process_index() == 0:
            start.remove(status)

    work = Work(lambda: f"at step {status.step}", status.resumes, signal.tell, clean)
    with link.during(work):
        try:
            return _in_folder(config, signal, start, link)
        except StoppedEarly:
            raise _nothing_trained(signal) from None


def _start_of(config: Config) -> LocalStart | RemoteStart:
    if is_store(config.run_dir):
        return RemoteStart(config, jax.process_index(), jax.process_count())
    return LocalStart(config)


def _nothing_trained(signal: StopSignal) -> Stopped:
    return Stopped(signal.status.saved, signal.name or "a signal", trained=False, alone=True)


def _in_folder(
    config: Config, signal: StopSignal, start: LocalStart | RemoteStart, link: Link | None
) -> Run:
    """Process 0 creates and locks the run folder; then all train."""
    check_same_config(config)
    if jax.process_index() > 0:
        wait_for_all("run folder created")
        with enough_memory(TRAINING):
            return _train(config, start.join(), signal, link)
    with start.open(signal.status) as run, enough_memory(TRAINING):
        wait_for_all("run folder created")
        return _train(config, run, signal, link)


def _train(config: Config, run: Run, signal: StopSignal, link: Link | None) -> Run:
    file = run.goodput if jax.process_index() == 0 else None
    status = signal.status
    with Goodput(file, status.began) as goodput:
        if status.program:
            status.program.do_last(goodput.left)
        return _train_counted(config, run, signal, link, goodput)


def _train_counted(
    config: Config, run: Run, signal: StopSignal, link: Link | None, goodput: Goodput
) -> Run:
    """Trains, and counts what the time is spent on."""
    status = signal.status
    status.saved = max(run.steps(), default=None)
    session = open_session(config, run)
    checkpointing = _checkpoints(run, config)
    with checkpointing as checkpoints, jax.set_mesh(session.mesh):
        state, progress, frozen = restore_or_init(session, checkpoints)
        session = session.within_data(progress)
        status.step = progress.step
        local = [progress.step] if progress.step else []
        status.saved = max([*run.steps(), *local], default=None)
        if not progress.step:
            params = join(state.params, frozen)
            workload = session.workload.before_first_step(params, session.mesh)
            if workload is not session.workload:
                session = replace(session, workload=workload)
                progress = session.begin()
        if session.is_primary:
            session.workload.write_metadata(run)
        share_with_all("task metadata", run)
        if _is_done(session, progress):
            return run
        reporter = Reporter(session, progress.step)
        signal.say = reporter.announce
        try:
            with Loader(
                session.workload.feed(),
                session.mesh,
                progress.batch,
                prefetch=config.data.prefetch,
                threads=2 if config.data.store is None else max(2, config.data.prefetch),
                stops=session.workload.is_finite,
            ) as loader:
                goodput.begin(progress.step, lambda: loader.wait_seconds)
                with Watchdog(config.log.watchdog, status, link, signal.tell) as watchdog:
                    loop = Trainer(
                        session,
                        state,
                        progress,
                        checkpoints,
                        reporter,
                        loader,
                        frozen,
                        signal,
                        Monitors(goodput, watchdog, Stragglers(link, signal.tell)),
                    )
                    loop.run()
        finally:
            goodput.end()
            signal.say = to_stderr
            reporter.close()
    return run


def _checkpoints(run: Run, config: Config) -> Checkpoints:
    if isinstance(run, RemoteRun):
        return RemoteCheckpoints(run, config.checkpoint)
    return Checkpoints(run.checkpoints, config.checkpoint)


def _is_done(session: Session, progress: TrainProgress) -> bool:
    """Whether the run has already ended; logs that, or the step it resumes from."""
    step, over = progress.step, progress.is_over(session.config.evaluation.patience)
    due = has_dues(progress)
    ended = is_over(session, progress, step) and not due
    if session.is_primary and ended:
        state = "no longer improves" if over else f"all {session.steps} steps are done"
        log.warning("%s: %s; nothing to do", session.run.address, state)
    elif session.is_primary and step:
        rest = "; first, its evaluation or samples are due" if due else ""
        log.warning(
            "%s: resuming from step %d of %d%s", session.run.address, step, session.steps, rest
        )
    return ended
