"""The state that training begins with: of a checkpoint, or of step 0."""

import jax

from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import read_params
from llmjax.state import TrainState, Tree, abstract_state, split, state_of
from llmjax.training.fit import check_fit
from llmjax.training.initialization import freeze, frozen_params, initial_params
from llmjax.training.session import Session


def restore_or_init(
    session: Session, checkpoints: Checkpoints
) -> tuple[TrainState, TrainProgress, Tree]:
    """State, progress and frozen parameters: of the newest complete checkpoint; else of step 0,
    with imported parameters, those of init_from, or random ones.

    Raises:
      UserError: they do not fit the devices, or belong to another run, or cannot be read.
    """
    check_fit(session, _abstract(session))
    if (restored := _restore(session, checkpoints)) is not None:
        return *restored, _restore_frozen(session)
    trained, frozen = _init(session, checkpoints)
    if frozen:
        with jax.set_mesh(session.mesh):
            frozen = freeze(session.run, session.model.compute.dtype, session.network, frozen)
    return state_of(session.optimizer, trained, session.mesh), session.begin(), frozen


def restore_again(session: Session, checkpoints: Checkpoints) -> tuple[TrainState, TrainProgress]:
    """State and progress as `restore_or_init` returns them, in a run that has already begun."""
    if (restored := _restore(session, checkpoints)) is not None:
        return restored
    trained, _ = _init(session, checkpoints)
    return state_of(session.optimizer, trained, session.mesh), session.begin()


def _abstract(session: Session) -> TrainState:
    return abstract_state(session.network, session.optimizer, session.mesh, session.trainable)


def _restore(session: Session, checkpoints: Checkpoints) -> tuple[TrainState, TrainProgress] | None:
    restored = checkpoints.restore(_abstract(session))
    if restored is not None:
        session.check_same_batches(restored[1])
    return restored


def _init(session: Session, checkpoints: Checkpoints) -> tuple[Tree, Tree]:
    """The parameters of step 0: those that are trained, and the rest."""
    network, mesh = session.network, session.mesh
    if checkpoints.steps():
        step = checkpoints.steps()[-1]  # complete: `restore` has set damaged ones aside
        with jax.set_mesh(mesh):
            abstract = network.abstract_params()
        params = read_params(checkpoints.folder, step, abstract)
    else:
        params = initial_params(session.config, network, mesh)
    return split(params, session.trainable)


def _restore_frozen(session: Session) -> Tree:
    """The frozen parameters, as written at step 0."""
    if not session.is_partial:
        return {}
    with jax.set_mesh(session.mesh):
        abstract = split(session.network.abstract_params(), session.trainable)[1]
    return frozen_params(session.run, abstract, session.mesh)
