import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.model import grouped

SIZES = {
    "even": (10, 10, 10, 10),
    "uneven": (1, 0, 30, 9),
    "last empty": (17, 23, 0, 0),
    "rows of no group": (3, 0, 0, 8),
    "none": (0, 0, 0, 0),
}


def arrays(rows=40, inner=6, outer=5):
    draw = np.random.default_rng(0)
    shapes = ((rows, inner), (4, inner, outer), (rows, outer))
    return tuple(draw.standard_normal(shape).astype(np.float32) for shape in shapes)


def expected(rows, weights, others, sizes):
    """Products of each group by itself, in float64."""
    y, outer = np.zeros(others.shape), np.zeros(weights.shape)
    for group, end in enumerate(np.cumsum(sizes)):
        part = slice(end - sizes[group], end)
        y[part] = rows[part].astype(np.float64) @ weights[group]
        outer[group] = rows[part].astype(np.float64).T @ others[part]
    return y, outer


@pytest.mark.parametrize("implementation", ["blocks", "ragged"])
@pytest.mark.parametrize("name", SIZES)
def test_products_of_each_group(name, implementation, monkeypatch):
    monkeypatch.setattr(grouped, "implementation", lambda: implementation)
    rows, weights, others = arrays()
    sizes = jnp.array(SIZES[name], jnp.int32)
    y, outer = expected(rows, weights, others, SIZES[name])
    np.testing.assert_allclose(grouped.grouped_dot(rows, weights, sizes), y, atol=1e-5)
    turned = weights.swapaxes(1, 2)
    found = grouped.grouped_dot(rows, turned, sizes, transposed=True)
    np.testing.assert_allclose(found, y, atol=1e-5)
    np.testing.assert_allclose(grouped.grouped_outer(rows, others, sizes), outer, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_the_kernel_of_tpus(name):
    rows, weights, others = (jnp.asarray(x, jnp.bfloat16) for x in arrays())
    wide = [np.asarray(x, np.float32) for x in (rows, weights, others)]
    _, outer = expected(*wide, SIZES[name])
    sizes = jnp.array(SIZES[name], jnp.int32)
    found = grouped.megablox_outer(rows, others, sizes, interpret=True)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, outer, atol=1e-4)


def test_a_cpu_computes_no_group_for_others():
    """`jax.lax.ragged_dot` multiplies all rows by all groups there."""
    rows, weights, _ = arrays(512, 32, 64)
    sizes = jnp.full(4, 128, jnp.int32)
    assert grouped.implementation() == "blocks"
    text = jax.jit(grouped.grouped_dot).lower(rows, weights, sizes).as_text()
    assert "ragged" not in text
    assert "tensor<32x32xf32>, tensor<32x64xf32>" in text, "blocks of 32 rows, a group each"
