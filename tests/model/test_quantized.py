"""Weights in 8 and 4 bits: what they stand for and take, and models that compute with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import BOTH, FLOAT32, LLAMA, MLA, batch, make, placed

from llmjax.losses.token_loss import token_nll
from llmjax.model import products
from llmjax.model.params import param_specs, unstack_layers
from llmjax.model.quantized import CANDIDATES, Quantized, as_array, quantize
from llmjax.parallel.mesh import MeshConfig, make_mesh, use_mesh

KERNEL = ("embed", "heads", "head_dim")


def kernel(shape=(32, 2, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def narrowed(model, params, weights):
    """The parameters with every projection quantized, and the same ones widened again."""
    specs = {spec.path: spec for spec in param_specs(model.config, model.compute).specs}
    names = jax.tree_util.tree_leaves_with_path(params)

    def spec_of(path):
        return specs[tuple(part.key for part in path)]

    assert {spec_of(path).inner for path, _ in names} >= {None, (-2,), (-1,)}

    def narrow(path, leaf):
        spec = spec_of(path)
        return leaf if spec.inner is None else quantize(leaf, spec.axes, spec.inner, weights)

    def wide(path, leaf):
        return products.gather(leaf, spec_of(path).axes, "float32")

    quantized = jax.jit(lambda tree: jax.tree.map_with_path(narrow, tree))(params)
    is_leaf = lambda leaf: isinstance(leaf, Quantized)  # noqa: E731
    widen = jax.jit(lambda tree: jax.tree.map_with_path(wide, tree, is_leaf=is_leaf))
    return quantized, widen(quantized)


def test_int8_errs_by_half_a_step_of_its_channel():
    weight = kernel()
    narrow = quantize(weight, KERNEL, (-3,), "int8")
    assert (narrow.values.dtype, narrow.scale.shape) == (jnp.int8, (1, 2, 3))
    error = jnp.abs(as_array(narrow, KERNEL, "float32") - weight)
    assert (error <= 0.5001 * narrow.scale).all()
    assert error.max() > 0.4 * narrow.scale.min()


def test_int4_takes_half_a_byte_and_a_scale_per_group():
    weight = kernel((64, 2, 3))
    narrow = quantize(weight, KERNEL, (-3,), "int4")
    assert (narrow.values.dtype, narrow.values.shape) == (jnp.uint8, (32, 2, 3))
    assert (narrow.scale.dtype, narrow.scale.shape) == (jnp.bfloat16, (4, 2, 3))
    assert (narrow.shape, narrow.ndim) == (weight.shape, weight.ndim)


def test_int4_searches_scales_that_err_less():
    weight = kernel((16, 1, 200))
    groups = np.abs(weight).max(0, keepdims=True)
    plain = np.round(weight / groups * 7) * groups / 7
    searched = as_array(quantize(weight, KERNEL, (-3,), "int4"), KERNEL, "float32")
    errors = [float(np.square(wide - weight).mean()) for wide in (searched, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_int4_is_exact_on_its_grid():
    """Levels from -8 to 7 of any scale of bfloat16, as groups of a published file have them."""
    levels = np.arange(-8, 8, dtype=np.float32).reshape(16, 1, 1)
    weight = jnp.asarray(levels * np.array([0.125, -0.375, 1.5], np.float32))
    assert -8.0 in CANDIDATES
    narrow = quantize(weight, KERNEL, (-3,), "int4")
    np.testing.assert_array_equal(as_array(narrow, KERNEL, "float32"), weight)
    zeros = quantize(0 * weight, KERNEL, (-3,), "int4")
    assert not as_array(zeros, KERNEL, "float32").any()


def test_narrow_and_output_kernels_and_tables_keep_eight_bits():
    assert not quantize(kernel((24, 2, 3)), KERNEL, (-3,), "int4").is_packed
    output = quantize(kernel((2, 32, 6)), ("heads", "head_dim", "embed"), (-3, -2), "int4")
    assert (output.values.dtype, output.scale.shape) == (jnp.int8, (1, 1, 6))
    table = quantize(kernel((5, 32)), ("vocab", "embed"), (-1,), "int4")
    assert (table.values.dtype, table.scale.shape) == (jnp.int8, (5, 1))
    assert table.T.shape == (32, 5)
    widened = as_array(table, ("vocab", "embed"), "float32")
    np.testing.assert_array_equal(as_array(table.T, ("embed", "vocab"), "float32"), widened.T)


@pytest.mark.parametrize(("config", "weights"), [(LLAMA, "int8"), (LLAMA, "int4"), (BOTH, "int4")])
def test_a_model_computes_with_what_its_weights_stand_for(config, weights):
    model, params = make(config, FLOAT32)
    narrow, wide = narrowed(model, params, weights)
    rows = batch(config)
    nll = jax.jit(lambda params: token_nll(model, params, rows))
    np.testing.assert_allclose(nll(narrow), nll(wide), atol=1e-5)
    assert np.abs(nll(narrow) - nll(params)).max() > 1e-4
    with use_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        spread, same = narrowed(model, placed(params, model), weights)
        np.testing.assert_allclose(nll(spread), nll(same), atol=1e-5)


@pytest.mark.parametrize("config", [LLAMA, MLA], ids=["llama", "mla"])
def test_decoding_reads_narrow_weights(config):
    model, params = make(config, FLOAT32)
    narrow, wide = narrowed(model, params, "int4")
    tokens = jnp.array([[3, 5, 7]])

    def logits(params):
        params = unstack_layers(jax.tree.map(jnp.copy, params))  # which deletes what it splits
        cache = model.prefill(params, tokens, 8)
        return model.decode(params, tokens[:, :1], jnp.array([[3]]), cache)[0]

    np.testing.assert_allclose(logits(narrow), logits(wide), 1e-4, 1e-6)  # of values near 1


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 21), ("bfloat16", 14)])
@pytest.mark.parametrize(
    ("shape", "inner", "formula"),
    [
        ((48, 4, 16), (0,), "bi,ink->bnk"),
        ((4, 16, 24), (0, 1), "bnk,nko->bo"),
        ((40, 48), (1,), "bi,vi->bv"),  # a table of tokens
    ],
)
def test_products_by_integers_are_those_by_widened_weights(shape, inner, formula, dtype, bits):
    key, axes = jax.random.key(0), (None,) * len(shape)
    weight = jax.random.normal(key, shape)
    narrow = quantize(weight, axes, tuple(i - len(shape) for i in inner), "int8")
    x = jax.random.normal(key, (3, *(shape[i] for i in inner))).at[2].multiply(1e4)
    x = x.at[1].set(0.0).astype(dtype)
    wide = np.float64(narrow.values) * np.float64(narrow.scale)
    expected = np.einsum(formula, np.float64(x), wide)
    bound = np.einsum(formula, np.ones_like(x, np.float64), np.abs(wide))  # of the rows' errors
    largest = np.abs(np.float64(x)).reshape(3, -1).max(1).reshape(3, *[1] * (expected.ndim - 1))
    error = np.abs(narrow.product(x, inner, None) - expected)
    assert np.all(error <= 2.0**-bits * largest * bound + 1e-30)
