"""The verb `train`: a config in, a run folder out."""

import logging
from pathlib import Path

import jax

from llmjax.checkpoint import Checkpoints, Position
from llmjax.checkpoint.reading import restore_params, wait_for_all
from llmjax.config import Config, validate
from llmjax.data import Loader
from llmjax.run import Run
from llmjax.state import TrainState, abstract_state, make_state, state_of
from llmjax.train.devices import start_devices
from llmjax.train.loop import Loop
from llmjax.train.reporter import Reporter
from llmjax.train.session import Session, open_session

log = logging.getLogger(__name__)


def train(config: Config) -> Path:
    """Trains a model, or goes on where its run folder stands.

    A run that goes on takes the same batches as one that was never interrupted, on any mesh and any
    number of processes; on the same mesh its parameters are the same, bit for bit.

    Args:
      config: everything that decides the run. With several processes, each calls this with the
        same one, on a file system that all share.

    Returns:
      The run folder.

    Raises:
      UserError: the config, the data, the devices or the folder cannot be used.
      Stopped: SIGTERM or SIGINT came; the step is saved, and the same call goes on.
    """
    config = validate(config)
    start_devices(config)
    if jax.process_index() > 0:
        wait_for_all("run folder there")
        return _train(config, Run(Path(config.run_dir)))
    run = Run.create(config)
    with run.lock():
        wait_for_all("run folder there")
        return _train(config, run)


def _train(config: Config, run: Run) -> Path:
    session = open_session(config, run)
    with Checkpoints(run.checkpoints, config.checkpoint) as checkpoints, jax.set_mesh(session.mesh):
        state, position = _start(session, checkpoints)
        if position.step >= session.steps:
            if session.leads:
                log.warning("%s: all %d steps are done already", run.folder, session.steps)
            return run.folder
        reporter = Reporter(session, position.step)
        try:
            with Loader(
                session.corpus,
                config.data,
                config.seed,
                session.mesh,
                position.step,
                session.objective,
            ) as loader:
                Loop(session, state, position, checkpoints, reporter, loader).run()
        finally:
            reporter.close()
    return run.folder


def _start(session: Session, checkpoints: Checkpoints) -> tuple[TrainState, Position]:
    """The newest whole checkpoint; or step 0, with the parameters of an import, or new ones."""
    model, optimizer, mesh = session.model, session.optimizer, session.mesh
    abstract = abstract_state(model, optimizer, mesh)
    restored = checkpoints.restore(abstract)
    if restored is not None:
        session.check_same_batches(restored[1])
        return restored
    if checkpoints.steps():
        params, _ = restore_params(checkpoints.folder, abstract.params)
        return state_of(optimizer, params, mesh), session.position(0)
    return make_state(model, optimizer, session.config.seed, mesh), session.position(0)
