"""A run resumes with its optimizer state in another dtype, which is converted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.run.checkpoint.checkpoints import Checkpoints, TrainProgress
from llmjax.run.checkpoint.config import CheckpointConfig
from llmjax.run.checkpoint.training_state import read_state
from llmjax.state import abstract_state, make_state
from tiny import MODEL, OPTIMIZER, one_device, optimizer


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_state_is_converted(tmp_path, before, after):
    mesh = one_device()
    stored = make_state(MODEL, optimizer(replace(OPTIMIZER, moment_dtype=before)), 0, mesh)
    moments = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype), stored.opt_state)
    stored = replace(stored, opt_state=moments)
    with Checkpoints(tmp_path / "checkpoints", CheckpointConfig()) as checkpoints:
        checkpoints.save(stored, TrainProgress(0, 0, 2, 32, "none"))
    wanted = abstract_state(MODEL, optimizer(replace(OPTIMIZER, moment_dtype=after)), mesh)
    read = read_state(tmp_path / "checkpoints" / "0", wanted)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(read.opt_state) if leaf.ndim}
    assert dtypes == {jnp.dtype(after)}
    pairs = zip(jax.tree.leaves(read.opt_state), jax.tree.leaves(moments), strict=True)
    for converted, original in pairs:
        np.testing.assert_array_equal(converted, original.astype(converted.dtype))
