"""A run resumes with its optimizer state in another dtype, or in the blocks of another mesh."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.optimizers.moments import is_blockwise, widen
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.spikes import SpikesConfig, skip_spikes
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.run.checkpoint.checkpoints import Checkpoints, TrainProgress
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.training_state import read_state
from llmjax.state import abstract_state, make_state
from tiny import CONFIG, MODEL, OPTIMIZER, one_device, optimizer


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_state_is_converted(tmp_path, before, after):
    mesh = one_device()
    stored = make_state(MODEL, optimizer(replace(OPTIMIZER, moment_dtype=before)), 0, mesh)
    moments = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype), stored.opt_state)
    stored = replace(stored, opt_state=moments)
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
        checkpoints.save(stored, TrainProgress(0, 0, 2, 32, "none"))
    wanted = abstract_state(MODEL, optimizer(replace(OPTIMIZER, moment_dtype=after)), mesh)
    read = read_state(tmp_path / "checkpoints" / "0", wanted)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(read.opt_state) if leaf.ndim}
    assert dtypes == {jnp.dtype(after)}
    pairs = zip(jax.tree.leaves(read.opt_state), jax.tree.leaves(moments), strict=True)
    for converted, original in pairs:
        np.testing.assert_array_equal(converted, original.astype(converted.dtype))


def test_int8_is_converted_to_the_blocks_of_a_mesh(tmp_path):
    model = Model(resolve(replace(CONFIG, d_model=64, d_ff=192), 128))

    def updates(dtype):
        config = replace(OPTIMIZER, moment_dtype=dtype)
        inner = make_optimizer(config, 20, model.logical_axes())
        return skip_spikes(inner, SpikesConfig(6.0, 8))

    def blocks(state):
        leaves = jax.tree.leaves(state, is_leaf=is_blockwise)
        return {leaf.scale.shape for leaf in leaves if is_blockwise(leaf)}

    def step(state):
        gradients = state.params
        _, moments = updates("int8").apply(state.params, gradients, state.opt_state, 0)
        return replace(state, opt_state=moments)

    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    with jax.set_mesh(mesh):
        stored = jax.jit(step)(make_state(model, updates("int8"), 0, mesh))
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
        checkpoints.save(stored, TrainProgress(0, 0, 2, 32, "none"))
    exact = jax.tree.leaves(widen(stored.opt_state))
    layouts = [blocks(stored.opt_state)]
    for dtype, onto in (
        ("int8", one_device()),
        ("int8", make_mesh(MeshConfig(fsdp=4, tensor=2))),
        ("float32", mesh),
    ):
        abstract = abstract_state(model, updates(dtype), onto)
        read, wanted = read_state(folder / "0", abstract).opt_state, abstract.opt_state
        for leaf, like in zip(jax.tree.leaves(read), jax.tree.leaves(wanted), strict=True):
            assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
        assert jax.tree.structure(read) == jax.tree.structure(wanted)
        layouts.append(blocks(read))
        for original, moment in zip(exact, jax.tree.leaves(widen(read)), strict=True):
            step_size = 0 if dtype == "float32" else 0.02 * np.abs(original).max(initial=0)
            np.testing.assert_allclose(moment, original, atol=step_size)
    assert len({frozenset(layout) for layout in layouts}) == 4
    assert not layouts[-1]
