"""Optimizer state in bfloat16: half the memory, and rounding that is right on average."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_optimizers import AXES, CONFIGS, descend, distance, make_params

from llmjax.optimizers.moments import narrow, widen
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.parallel.mesh import MeshConfig, make_mesh


def test_rounding_is_right_on_average_and_keeps_what_bfloat16_has():
    exact = jnp.array([1.0, 0.0, -2.5, jnp.inf])
    between = jnp.full(20_000, 1 + 2**-9, jnp.float32)  # a quarter of the way to the next number
    state = {"count": jnp.int32(3), "scalar": jnp.float32(0.1), "a": exact, "b": between}
    rounded = narrow(state, "bfloat16", jnp.int32(7))
    dtypes = {"count": jnp.int32, "scalar": jnp.float32, "a": jnp.bfloat16, "b": jnp.bfloat16}
    assert {name: leaf.dtype for name, leaf in rounded.items()} == dtypes
    np.testing.assert_array_equal(rounded["a"].astype(jnp.float32), exact)
    wide = widen(rounded)["b"]
    assert set(np.unique(wide)) == {1, 1 + 2**-7}
    assert wide.mean() == pytest.approx(1 + 2**-9, abs=2e-4)
    assert (narrow(state, "bfloat16", jnp.int32(8))["b"] != rounded["b"]).any()


@pytest.mark.parametrize("config", CONFIGS[:1], ids=["adamw"])
def test_moments_in_bfloat16_take_half_and_descend_as_far(config):
    half = replace(config, moment_dtype="bfloat16")
    sizes = {
        each.moment_dtype: sum(
            leaf.nbytes for leaf in jax.tree.leaves(make_optimizer(each, 9, AXES).init(params))
        )
        for each in (config, half)
        for params in [make_params(0)]
    }
    assert sizes["bfloat16"] == pytest.approx(sizes["float32"] / 2, rel=0.01)
    target, wide, small = make_params(1), descend(config), descend(half)
    assert distance(small, target) == pytest.approx(distance(wide, target), rel=0.02)
    assert distance(small, wide) > 0
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    with jax.set_mesh(mesh):
        sharded = descend(half, mesh)
    for name, leaf in small.items():
        np.testing.assert_allclose(sharded[name], leaf, atol=1e-5)
