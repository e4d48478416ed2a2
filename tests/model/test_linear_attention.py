"""Linear attention: decoded as trained, apart from other documents and padding, on any mesh."""

from dataclasses import replace
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import FLOAT32, HYBRID, MESHES, applied, assert_close, batch, make, placed, tokens

from llmjax.compression.plan import window_bytes
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.linear import LinearConfig
from llmjax.model.lora import LoraConfig, merged
from llmjax.model.model import Model
from llmjax.model.params import check_mesh, param_specs
from llmjax.optimizers.param_kinds import ParamKind, param_kind
from llmjax.parallel.mesh import MeshConfig, make_mesh

SIZES = HYBRID.linear
COUNTS = np.array([5, 2, 4, 1, 3, 5, 6, 1])


def padded(row: np.ndarray) -> np.ndarray:
    """Prompts of `COUNTS` tokens, padded at the end."""
    return np.where(np.arange(6) < COUNTS[:, None], row[:, :6], 31)


def steps(model: Model, params, row: np.ndarray, cache, count: int = 2) -> list:
    """Logits of the tokens after the prompts."""
    decode, out = jax.jit(model.decode), []
    for step in range(count):
        positions = COUNTS[:, None] + step
        logits, cache = decode(params, np.take_along_axis(row, positions, 1), positions, cache)
        out.append(logits[:, 0])
    return out


@pytest.mark.parametrize("kind", ["", "tensor"])
def test_padded_prompts_and_steps_equal_the_full_pass(kind):
    """Prompts by `prefill` and by `decode`; rows in another order, some twice, as of beams."""
    model, params = make(HYBRID)
    row = np.asarray(tokens(8, 8))
    full, at = np.asarray(applied(HYBRID)(row)), np.arange(8)

    def check(params):
        filled = jax.jit(partial(model.prefill, length=12))(
            params, padded(row), token_counts=COUNTS
        )
        positions = np.broadcast_to(np.arange(6), (8, 6))
        logits, read = jax.jit(model.decode)(
            params, padded(row), positions, model.init_cache(8, 12), only=COUNTS - 1
        )
        assert_close(jax.device_get(logits)[:, 0], full[at, COUNTS - 1])
        order = np.array([3, 3, 0, 1, 7, 6, 5, 2])
        for cache in (filled, read.grown(16)):
            assert_close(jax.device_get(cache.states), jax.device_get(filled.states))
            for step, logits in enumerate(steps(model, params, row, cache)):
                assert_close(jax.device_get(logits), full[at, COUNTS + step])
        token = jnp.asarray(row[order, COUNTS[order]][:, None])
        taken = filled.take(jnp.asarray(order))
        logits, _ = jax.jit(model.decode)(params, token, COUNTS[order][:, None], taken)
        assert_close(jax.device_get(logits)[:, 0], full[order, COUNTS[order]])

    if kind:
        with jax.set_mesh(make_mesh(MESHES[kind])):
            check(placed(params, model))
    else:
        check(params)


def test_documents_of_a_row_are_apart():
    """Each as if it were alone, whatever stands before it and in padding."""
    model, params = make(HYBRID)
    row = np.asarray(tokens(1, 12))
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0]])
    positions = np.array([[*range(5), *range(4), 0, 0, 0]])
    logits = jax.jit(model.apply)(params, row, segments=segments, positions=positions)
    for start, end in ((0, 5), (5, 9)):
        alone = jax.jit(model.apply)(params, row[:, start:end])
        assert_close(logits[:, start:end], alone)


@pytest.fixture(scope="module")
def one_device():
    """Loss and gradients on one device."""
    return loss_and_gradients(*make(HYBRID))


def loss_and_gradients(model: Model, params):
    loss = lambda p: token_loss(model, p, batch(model.config)).objective  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("sizes", [MESHES["tensor"], MeshConfig(stage=2, fsdp=2, tensor=2)])
def test_a_mesh(sizes, one_device):
    """Heads over tensor, and a stage for each half of the layers."""
    model, params = make(HYBRID, replace(FLOAT32, remat="full"))
    with jax.set_mesh(make_mesh(sizes)):
        spread = placed(params, model)
        found = loss_and_gradients(model, spread)
        same = jax.tree.map(lambda g, p: g.sharding.spec == p.sharding.spec, found[1], spread)
        assert jax.tree.all(same), "a gradient is sharded like its parameter"
        assert_close(jax.device_get(found), jax.device_get(one_device), 2e-5)


@pytest.mark.once
def test_a_mesh_that_splits_rows_is_refused():
    message = r"mesh.sequence=2: linear attention \(model.linear\) does not split rows"
    with (
        jax.set_mesh(make_mesh(MESHES["sequence"])),
        pytest.raises(UserError, match=message),
    ):
        check_mesh(HYBRID, FLOAT32)


def test_the_cache_does_not_grow_where_attention_is_linear():
    for length in (12, 24):
        cache = Model(HYBRID).init_cache(2, length)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
        assert held == 2 * window_bytes(HYBRID, length)
        assert cache.length == length
    attention = replace(HYBRID, linear=None)
    assert window_bytes(HYBRID, 10**6) < 0.51 * window_bytes(attention, 10**6)


def test_flops_count_every_kernel():
    specs = param_specs(HYBRID, ComputeConfig()).specs
    names = ("kernel", "rows", "query_conv", "key_conv", "value_conv")
    kernels = sum(prod(spec.shape.shape) for spec in specs if spec.path[-1] in names)
    attended = 2 * 4 * 16 * (4 + 4)  # layers, heads, keys, widths
    recurrent = 2 * 3 * 4 * 6 * 5  # layers, products, heads, widths
    expected = 2 * (kernels + attended + recurrent)
    assert flops_per_token(HYBRID, 16, backward=False) == expected
    adapted = replace(HYBRID, lora=LoraConfig(rank=2, targets=("query", "output_gate", "down")))
    specs = param_specs(adapted, ComputeConfig()).specs
    added = sum(prod(spec.shape.shape) for spec in specs if "lora" in spec.path[-1])
    expected = 4 * kernels + 6 * (attended + recurrent + added)
    assert flops_per_token(adapted, 16) == expected


def test_only_projections_are_matrices():
    linear = [s for s in param_specs(HYBRID, FLOAT32).specs if "linear_attention" in s.path]
    matrices = {s.path[-2] for s in linear if param_kind(s.axes) == ParamKind.MATRIX}
    assert matrices == {"query", "key", "value", "output_gate", "beta", "decay", "out"}
    assert {s.path[-2] for s in linear if s.inner is not None} == matrices


def test_initial_decays_are_those_of_the_paper():
    """Rates times steps, before the first update: within exp(-1.6) and 1."""
    params = jax.jit(Model(HYBRID).init)(jax.random.key(0))
    (group,) = (name for name in params["decoder"] if name.startswith("layers_linear"))
    layer = params["decoder"][group]["linear_attention"]
    rates, steps = jnp.exp(layer["log_rate"]), jax.nn.softplus(layer["decay_bias"])
    assert np.all((rates > 0) & (rates < 16))
    assert np.all((steps > 0.99e-3) & (steps < 0.101))
    assert len(np.unique(rates)) == rates.size, "each layer and head draws its own"


def test_adapters():
    """Decoding with adapters equals that of the merged model."""
    # Of a scale of 1: one of 8 would enlarge the rounding in which the two differ.
    targets = ("query", "key", "value", "output_gate", "out")
    lora = LoraConfig(rank=2, alpha=2.0, targets=targets)
    model, params = make(replace(HYBRID, lora=lora))
    row = tokens(2, 6)
    out = [
        jax.jit(model.apply)(params, row)
        for model, params in ((model, params), (Model(HYBRID), merged(params, lora)))
    ]
    assert_close(*out)


def test_bfloat16():
    """Within its rounding of float32; the state stays float32."""
    model, (_, params) = Model(HYBRID, ComputeConfig(dtype="bfloat16")), make(HYBRID)
    row = np.asarray(tokens(8, 8))
    exact, logits = applied(HYBRID)(row), jax.jit(model.apply)(params, row)
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
    cache = jax.jit(partial(model.prefill, length=12))(params, padded(row), token_counts=COUNTS)
    assert cache.read_state(0).matrix.dtype == jnp.float32
    for step, logits in enumerate(steps(model, params, row, cache)):
        error = np.abs(logits - exact[np.arange(8), COUNTS + step]).max()
        assert error < 0.1 * np.abs(exact).max()


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear": LinearConfig(3, 4, 4, 4, 2, (0,))}, "value_heads 4 is no multiple of"),
        ({"linear": replace(SIZES, conv_width=0)}, "linear.conv_width must be positive"),
        ({"linear": replace(SIZES, attention_layers=(4,))}, "are not all among the 4 layers"),
        ({"linear": replace(SIZES, attention_layers=())}, "linear.attention_layers is empty"),
        ({"num_encoder_layers": 1}, "linear needs a decoder alone"),
        (
            {"linear": None, "attention_gate": False, "lora": LoraConfig(targets=("output_gate",))},
            "lora.targets has output_gate, but the model's attention has none",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        resolve(replace(HYBRID, **change), 32)
