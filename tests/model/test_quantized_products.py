"""Quantized training: qwix's numerics, on any mesh, in the products that the config chooses."""

import re
from collections import Counter
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from qwix._src.core.dot_general_qt import DotGeneralQtConfig, dot_general_qt
from shapes import BOTH, FLOAT32, LLAMA, MESHES, batch, make, placed

import pretend
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model import products, quantized_products
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Precision, Quantization, check_quantization
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.params import param_specs
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel import mesh
from llmjax.parallel.chips import CHIPS
from llmjax.parallel.mesh import make_mesh
from llmjax.state import init_state
from llmjax.step import make_train_step

WIDE = Precision("float32")
# Shape of x and of the kernel, the kernel's axes, those of the result.
COLUMNS = (
    (4, 8, 16),
    (16, 4, 6),
    ("embed", "heads", "head_dim"),
    ("batch", "length", "heads", None),
)
ROWS = ((4, 8, 4, 6), (4, 6, 16), ("heads", "head_dim", "embed"), ("batch", "residual", None))
CASES = {"columns": COLUMNS, "rows": ROWS}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32)


def with_gradients(product, x, kernel, dy):
    y, pull_back = jax.vjp(product, x, kernel)
    return y, *pull_back(dy)


def quantized(case, quantization):
    _, _, axes, out = case

    def product(x, kernel):
        how = {"precision": WIDE, "quantization": quantization}
        return quantized_products.dense(x, kernel, None, axes=axes, out=out, **how)

    return product


def arguments(case):
    x, kernel, *_ = case
    return draw(*x), draw(*kernel), draw(*x[:2], *kernel[len(x) - 2 :], seed=1)


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_qwix(case, dtype):
    x, kernel, dy = arguments(case)
    inner = x.ndim - 2
    numbers = ((tuple(range(2, x.ndim)), tuple(range(inner))), ((), ()))
    narrow = quantized_products.DTYPES[dtype]
    forward = {"lhs_qtype": narrow, "rhs_qtype": narrow}
    gradients = {"dlhs_grad_qtype": narrow, "drhs_grad_qtype": narrow}
    theirs = {
        Quantization(dtype): DotGeneralQtConfig(**forward, **gradients),
        Quantization(dtype, False, False): DotGeneralQtConfig(
            **forward, use_original_residuals=True
        ),
    }
    for ours, config in theirs.items():
        reference = partial(dot_general_qt, dimension_numbers=numbers, config=config)
        expected = with_gradients(reference, x, kernel, dy)
        found = with_gradients(quantized(case, ours), x, kernel, dy)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, 1e-5, 1e-5)
    exact = jnp.tensordot(x, kernel, inner)
    error = quantized(case, Quantization(dtype))(x, kernel) - exact
    assert 1e-3 < error.std() / exact.std() < 0.1


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tpus_sum_over_rows_with_one_operand_transposed(case, monkeypatch):
    """Of which the columns are fewer: the kernel's inputs in one case, its outputs in the other."""
    x, kernel, dy = arguments(case)
    quantization = Quantization("int8")
    expected = with_gradients(quantized(case, quantization), x, kernel, dy)[2]
    monkeypatch.setattr(mesh, "platform", lambda: "tpu")
    found = with_gradients(quantized(case, quantization), x, kernel, dy)[2]
    np.testing.assert_allclose(found, expected, 1e-6, 1e-6)


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_any_mesh_computes_the_same(case, dtype):
    """Scales are those of whole channels, however these are split."""
    x, kernel, dy = arguments(case)
    product = quantized(case, Quantization(dtype))
    expected = with_gradients(product, x, kernel, dy)
    _, _, axes, out = case
    with jax.set_mesh(make_mesh(MESHES["all"])):
        x_axes = ("batch", "length", *products.gathered(axes)[: x.ndim - 2])
        arrays = [
            jax.device_put(array, mesh.named_sharding(jax.sharding.get_mesh(), *names))
            for array, names in ((x, x_axes), (kernel, axes), (dy, out))
        ]
        found = jax.jit(lambda *args: with_gradients(product, *args))(*arrays)
        assert mesh.logical_spec(*axes) == found[2].sharding.spec
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-5)


def loss_of(model):
    return lambda params, rows: token_loss(model, params, rows).objective


def test_a_model_trains_with_its_products_quantized():
    config = replace(LLAMA, num_kv_heads=2)
    rows, wide = batch(config), make(config, FLOAT32)[0]
    model, params = make(config, ComputeConfig(quantization="fp8", remat="full"))
    losses, gradients = {}, {}
    for key, each in (("wide", wide), ("quantized", model)):
        losses[key], gradients[key] = jax.jit(jax.value_and_grad(loss_of(each)))(params, rows)
    with jax.set_mesh(make_mesh(MESHES["tensor"])):
        spread = placed(params, model)

        def prepared(params, rows):
            once = model.quantized_once(jax.lax.stop_gradient(params))
            return loss_of(model)(once(params), rows)

        losses["mesh"], gradients["mesh"] = jax.jit(jax.value_and_grad(prepared))(spread, rows)
    assert losses["quantized"] != losses["wide"]
    assert losses["quantized"] == pytest.approx(float(losses["wide"]), rel=5e-3)
    assert losses["mesh"] == pytest.approx(float(losses["quantized"]), rel=1e-4)
    norm = distance(gradients["wide"], jax.tree.map(jnp.zeros_like, params))
    assert 1e-3 < distance(gradients["quantized"], gradients["wide"]) / norm < 0.2
    assert distance(gradients["mesh"], gradients["quantized"]) / norm < 0.03


def distance(a, b):
    parts = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return sum(float(np.square(x - y).sum()) for x, y in parts) ** 0.5


PRODUCT = re.compile(r"dot_general.*: \(tensor<[^>]*x(\w+)>, tensor<[^>]*x(\w+)>\) -> ")


def lowered_products(platform, sizes, compute, config=LLAMA, trains=lambda name: True):
    """How many products the lowered gradient has of each pair of operand dtypes."""
    config, encoder = replace(config, num_kv_heads=2), 16 * config.is_encoder_decoder
    model = Model(resolve(config, 32), compute)
    with pretend.devices(platform, **sizes):
        specs = param_specs(model.config, compute)
        params = specs.tree(lambda spec: pretend.array(spec.shape.shape, jnp.float32, *spec.axes))
        flat, tree = jax.tree.flatten_with_path(params)
        chosen = [trains(jax.tree_util.keystr(path)) for path, _ in flat]

        rows = pretend.packed(8, 16, encoder=encoder)

        def loss(trained, frozen, rows):
            leaves = [a if a is not None else b for a, b in zip(trained, frozen, strict=True)]
            return loss_of(model)(jax.tree.unflatten(tree, leaves), rows)

        trained = [leaf if each else None for (_, leaf), each in zip(flat, chosen, strict=True)]
        frozen = [None if each else leaf for (_, leaf), each in zip(flat, chosen, strict=True)]
        traced = jax.jit(jax.grad(loss)).trace(trained, frozen, rows)
        return Counter(PRODUCT.findall(pretend.lowered(traced, platform)))


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["one", "eight"])
@pytest.mark.parametrize(("platform", "dtype"), [("tpu", "int8"), ("gpu", "fp8")])
def test_programs_have_narrow_products_forward_and_backward(platform, dtype, sizes):
    """Of a layer in a loop: 7 projections, of which 6 are computed again, and 2 gradients each."""
    compute = ComputeConfig("bfloat16", attention="reference", remat="full", quantization=dtype)
    pair = {"int8": ("i8", "i8"), "fp8": ("f8E4M3FN", "f8E4M3FN")}[dtype]
    assert lowered_products(platform, sizes, compute)[pair] == 7 + 6 + 2 * 7
    if platform == "tpu":
        only = replace(compute, quantized_gradients="inputs", quantized_params=("*.mlp.*",))
        assert lowered_products(platform, sizes, only)[pair] == 3 + 2 + 3


def quantizations(jaxpr, looped=False):
    """(shape, whether it is inside a loop) of each array that is rounded to 8 bits."""
    for equation in jaxpr.eqns:
        if equation.params.get("new_dtype") == jnp.int8:
            yield equation.invars[0].aval.shape, looped
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=has_equations):
            inner = getattr(inner, "jaxpr", inner)
            if has_equations(inner):
                yield from quantizations(inner, looped or equation.primitive.name == "scan")


def has_equations(value):
    return hasattr(getattr(value, "jaxpr", value), "eqns")


@pytest.mark.parametrize("prepares", [True, False])
def test_a_step_quantizes_each_weight_once(prepares):
    """Before the loops over microbatches and layers; not prepared, twice in each layer."""
    compute = ComputeConfig("bfloat16", attention="reference", remat="full", quantization="int8")
    model = Model(resolve(replace(LLAMA, num_kv_heads=2), 32), compute)
    optimizer = make_optimizer(AdamWConfig(), 10, model.logical_axes())
    prepare = model.quantized_once if prepares else None
    with pretend.devices("tpu", **pretend.EIGHT):
        step = make_train_step(
            lambda params, rows, key: token_loss(model, params, rows),
            optimizer,
            seed=0,
            accumulate=2,
            prepare=prepare,
        )
        state = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
        jaxpr = jax.make_jaxpr(step)(state, pretend.packed(16, 24)).jaxpr
        found = Counter(quantizations(jaxpr))
    specs = [spec for spec in param_specs(model.config, compute).specs if spec.quantized]
    stacked = Counter((spec.shape.shape, False) for spec in specs)
    layers = Counter((spec.shape.shape[1:], True) for spec in specs)
    kernels = {shape for shape, _ in stacked + layers}
    expected = stacked if prepares else layers + layers
    assert Counter({each: n for each, n in found.items() if each[0] in kernels}) == expected


def test_an_encoder_decoder_has_its_cross_attention_quantized():
    """Whose keys and values are of a stream that is split over the length. Without gates."""
    compute = ComputeConfig("bfloat16", attention="reference", quantization="int8")
    sizes = {"fsdp": 2, "sequence": 2, "tensor": 2}
    found = lowered_products("tpu", sizes, compute, replace(BOTH, gated=False))
    assert found["i8", "i8"] == 3 * (6 + 10)


def test_adapters_are_trained_beside_quantized_weights():
    """Kernels have no gradient, so there is no product for it; adapters stay in bfloat16."""
    compute = ComputeConfig("bfloat16", attention="reference", quantization="int8")
    tuned = replace(LLAMA, lora=LoraConfig(rank=2))
    found = lowered_products("tpu", pretend.EIGHT, compute, tuned, lambda name: "lora" in name)
    # The inputs of the layer need a gradient, and so the inputs of all projections.
    assert found["i8", "i8"] == 7 + 7
    assert found["bf16", "bf16"] >= 6 * len(tuned.lora.targets)


def test_names_of_projections():
    def chosen(*patterns, config=BOTH):
        compute = ComputeConfig(quantization="int8", quantized_params=patterns)
        return {spec.path for spec in param_specs(config, compute).specs if spec.quantized}

    kernels = {spec.path for spec in param_specs(BOTH, FLOAT32).specs if spec.path[-1] == "kernel"}
    assert chosen() == kernels
    assert chosen("encoder.layers.mlp.down.kernel") == {
        ("encoder", "layers", "mlp", "down", "kernel")
    }
    assert {path[2] for path in chosen("*.cross_attention.*")} == {"cross_attention"}
    assert not any(spec.quantized for spec in param_specs(BOTH, FLOAT32).specs)
    widths = replace(LLAMA, layer_d_ff=(8, 24))
    assert len(chosen("decoder.layers.mlp.up.*", config=widths)) == 2
    with pytest.raises(UserError, match=r"embedding\.\*: matches no projection .* decoder\.layers"):
        chosen("*.mlp.*", "embedding.*")


def test_chips_without_fast_products_of_the_dtype_are_refused():
    for name, dtype in (("v5e", "fp8"), ("v7x", "int8"), ("a100", "fp8")):
        with pytest.raises(UserError, match=rf"{dtype}: {name} has no {dtype} products"):
            check_quantization(ComputeConfig(quantization=dtype), CHIPS[name])
    check_quantization(ComputeConfig(quantization="int8"), CHIPS["v6e"])
    check_quantization(ComputeConfig(quantization="fp8"), CHIPS["h100"])
    check_quantization(ComputeConfig(quantization="fp8"), None)
    check_quantization(ComputeConfig(), CHIPS["v2"])
