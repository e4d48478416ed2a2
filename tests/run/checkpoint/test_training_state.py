"""A run may begin or cease to look for spikes when it resumes."""

import jax

import tiny
from llmjax.optimizers.spikes import SpikesConfig, SpikeState, skip_spikes
from llmjax.run.checkpoint.checkpoints import Checkpoints
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.state import abstract_state, make_state

PROGRESS = TrainProgress(step=3, seed=0, batch_size=16, length=16, corpus="c")


def optimizer(recent: int):
    """One that remembers so many losses."""
    return skip_spikes(tiny.optimizer(), SpikesConfig(6.0 if recent else 0.0, recent))


def moved(state):
    """The state with other values than those of step 0."""
    return jax.tree.map(lambda leaf: leaf + 1, state)


def test_what_is_remembered_is_dropped_or_begins_empty(tmp_path):
    mesh = tiny.one_device()
    inner = moved(make_state(tiny.MODEL, optimizer(0), 0, mesh)).opt_state
    for before, afters in ((0, [8]), (8, [0, 16])):
        folder, state = (
            tmp_path / str(before),
            moved(make_state(tiny.MODEL, optimizer(before), 0, mesh)),
        )
        with Checkpoints(folder, CheckpointConfig()) as checkpoints:
            checkpoints.save(state, PROGRESS)
            for after in afters:
                abstract = abstract_state(tiny.MODEL, optimizer(after), mesh)
                restored, progress = checkpoints.restore(abstract)
                assert progress == PROGRESS
                assert jax.tree.structure(restored) == jax.tree.structure(abstract)
                if not after:
                    assert tiny.equal(restored.opt_state, inner)
                    continue
                assert isinstance(restored.opt_state, SpikeState)
                assert tiny.equal(restored.opt_state.inner, inner)
                assert not any(leaf.any() for leaf in restored.opt_state.recent)
