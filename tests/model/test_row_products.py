"""The product of a single row on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.model.row_products import group_size, row_product


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("shape", "inner", "formula"),
    [
        ((48, 4, 16), (0,), "i,ink->nk"),
        ((6, 16, 40), (0, 1), "nk,nko->o"),
        ((40, 72), (1,), "i,vi->v"),
    ],
)
def test_is_the_product(dtype, shape, inner, formula):
    draw = np.random.default_rng(0).normal
    weight = jnp.asarray(np.round(30 * draw(size=shape)), dtype)
    x = jnp.asarray(draw(size=[shape[axis] for axis in inner]), jnp.bfloat16)
    group = group_size(x.size)
    expected = np.einsum(formula, np.float64(x), np.float64(weight))
    np.testing.assert_allclose(row_product(x, weight, inner, group), expected, 1e-5, 1e-4)


def test_groups_divide_the_sum():
    assert [group_size(size) for size in (576, 1536, 4096, 40, 7, 2 * 19)] == [
        *(18, 16, 16, 10),
        *(None, None),
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("inner", [(0,), (1,)])
def test_a_loop_over_rows_does_not_widen_the_weight(dtype, inner):
    def loop(x, weight):
        def step(x, _):
            return row_product(x, weight, inner, 16) / 1024, None

        return jax.lax.scan(step, x, length=4)[0]

    weight = jax.ShapeDtypeStruct((1024, 1024), dtype)
    program = jax.jit(loop).lower(jnp.ones(1024), weight).compile()
    assert program.memory_analysis().temp_size_in_bytes < 1024 * 1024
