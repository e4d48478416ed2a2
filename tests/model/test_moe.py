"""Mixtures of experts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from moe_textbook import moe_layer
from shapes import FLOAT32, LLAMA, assert_close, batch, make, tokens

from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.experts import AXES
from llmjax.model.flops import flops_per_token
from llmjax.model.layers import TRAIN
from llmjax.model.lora import LoraConfig, merged
from llmjax.model.model import Model
from llmjax.model.moe import MoE
from llmjax.model.moe_config import MoEConfig
from llmjax.model.quantized import quantize
from llmjax.model.trees import flatten

SMALL = MoEConfig(num_experts=8, experts_per_token=2, expert_width=12)
GPT_OSS = {"activation": "quick_gelu", "activation_limit": 0.5, "up_offset": 1.0}
SHARED = {"shared_width": 8, "shared_gate": True}
GROUPS = {"groups": 4, "groups_per_token": 2}

# Families' choices, by the names of their models.
OPTIONS = {
    "mixtral": {},
    "olmoe": {"normalize": False, "experts_per_token": 3},
    "qwen2": {"normalize": False, **SHARED},
    "deepseek-v2": {"normalize": False, "weight_scale": 16.0, **GROUPS, "group_score": "max"},
    "deepseek-v3": {"scores": "sigmoid", "selection_bias": True, "weight_scale": 2.5, **GROUPS},
    "gpt-oss": {"router_bias": True, "expert_bias": True},
    "llama-4": {
        "scores": "sigmoid",
        "experts_per_token": 1,
        "normalize": False,
        "weight_inputs": True,
        "shared_width": 8,
        "expert_bias": True,
    },
    "phi-3.5": {"scores": "sparsemixer", "normalize": False, "jitter": 0.3},
    "not gated": {"expert_bias": True},
}
MODEL = {"gpt-oss": GPT_OSS, "not gated": {"gated": False, "activation": "relu"}}


def layer(config, compute=FLOAT32, seed=0):
    """A layer's function of parameters, inputs and padding, and random parameters."""
    module = MoE(config, config.moe, compute, out_std=0.02, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module, nnx.Param)
    draw = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: jnp.asarray(0.3 * draw.standard_normal(x.shape, np.float32)),
        nnx.to_pure_dict(state),
    )

    @jax.jit
    def run(params, x, is_token=None):
        return nnx.merge(graph, params)(x, TRAIN, is_token)

    return run, params


def inputs(rows=3, length=16, width=16):
    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.standard_normal((rows, length, width), np.float32))
    return x, jnp.broadcast_to(jnp.arange(length) < length - 3, (rows, length))


def in_float64(f):
    """Runs a function of trees with all arrays in float64."""

    def run(*trees):
        with jax.enable_x64(True):
            wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), trees)
            return jax.tree.map(np.asarray, f(*wide))

    return run


@pytest.mark.once
@pytest.mark.parametrize("name", OPTIONS)
def test_a_layer_and_its_gradients_equal_a_dense_loop_over_experts(name):
    config = replace(LLAMA, **MODEL.get(name, {}), moe=replace(SMALL, **OPTIONS[name]))
    run, params = layer(config)
    x, is_token = inputs()
    cotangent = jnp.cos(jnp.arange(x.size)).reshape(x.shape)

    def total(params, x):
        y = run(params, x, is_token)[0]
        return (y * cotangent).sum(), y

    def textbook(params, x, cotangent, is_token):
        def total(params, x):
            flat = x.reshape(-1, x.shape[-1])
            y = moe_layer(params, flat, config, is_token.reshape(-1))[0].reshape(x.shape)
            return (y * cotangent).sum(), y

        return jax.grad(total, (0, 1), has_aux=True)(params, x)

    gradients, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(params, x)
    expected, expected_y = in_float64(textbook)(params, x, cotangent, is_token)
    assert_close(y, expected_y)
    gradients[0]["router"].pop("selection_bias", None)
    expected[0]["router"].pop("selection_bias", None)
    assert_close(gradients, expected, 3e-5)


def test_bfloat16_products_are_near_those_of_float32():
    config = replace(LLAMA, moe=SMALL)
    x, _ = inputs()
    run, params = layer(config)
    narrow, _ = layer(config, ComputeConfig(dtype="bfloat16"))
    y, expected = narrow(params, x)[0], run(params, x)[0]
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.03)


def test_padding_is_not_routed():
    config = replace(LLAMA, moe=replace(SMALL, balance_loss=1.0))
    run, params = layer(config)
    x, is_token = inputs()
    y, aux = run(params, x, is_token)
    cut, cut_aux = run(params, x[:, :13])
    np.testing.assert_allclose(y[:, :13], cut, atol=1e-5)
    assert jnp.all(y[:, 13:] == 0)
    assert_close(aux, cut_aux)


def test_losses_and_metrics_are_those_of_the_papers():
    moe = replace(SMALL, balance_loss=0.1, z_loss=0.01)
    config = replace(LLAMA, moe=moe)
    run, params = layer(config)
    x, is_token = inputs()
    aux = run(params, x, is_token)[1]

    def textbook(params, x, is_token):
        real = is_token.reshape(-1)
        rows = x.reshape(-1, x.shape[-1])
        _, weights, scores, logits = moe_layer(params, rows, config, real)
        return weights, scores, logits, real

    weights, scores, logits, real = in_float64(textbook)(params, x, is_token)
    counts, count = (weights > 0).sum(0), real.sum()
    means = (scores * real[:, None]).sum(0) / count
    balance = moe.num_experts * (counts / count * means).sum()
    z_loss = (np.log(np.exp(logits).sum(-1)) ** 2 * real).sum() / count
    entropy = -((scores * np.log(scores)).sum(-1) * real).sum() / count
    assert all(item.weight == count for item in aux.values())
    found = {name: float(item.total / item.weight) for name, item in aux.items()}
    load = np.sort(counts) / counts.mean()
    assert found == pytest.approx(
        {
            "router_balance_loss": balance,
            "router_z_loss": z_loss,
            "router_entropy": entropy,
            "expert_load_max": load[-1],
            "expert_load_median": np.median(load),
            "expert_load_min": load[0],
        },
        rel=1e-5,
    )
    penalties = {name: float(item.penalty / count) for name, item in aux.items() if item.penalty}
    assert penalties == pytest.approx(
        {"router_balance_loss": 0.1 * balance, "router_z_loss": 0.01 * z_loss}, rel=1e-5
    )


def test_experts_drop_what_exceeds_their_capacity_of_a_row():
    moe = replace(SMALL, capacity_factor=0.75)
    config = replace(LLAMA, moe=moe)
    run, params = layer(config)
    x, is_token = inputs()
    y, aux = run(params, x, is_token)

    def chosen(params, x, is_token):
        rows = x.reshape(-1, x.shape[-1])
        return moe_layer(params, rows, config, is_token.reshape(-1))[1]

    taken = in_float64(chosen)(params, x, is_token).reshape(3, 16, 8) > 0
    kept = taken & (np.cumsum(taken, 1) <= 3)  # 0.75 x 16 x 2 / 8
    assert 0 < (taken & ~kept).sum() < kept.sum()

    def textbook(params, x, is_token, kept):
        rows = x.reshape(-1, x.shape[-1])
        args = (config, is_token.reshape(-1), kept.reshape(-1, 8))
        return moe_layer(params, rows, *args)[0].reshape(x.shape)

    assert_close(y, in_float64(textbook)(params, x, is_token, kept))
    dropped = aux["expert_dropped_share"]
    assert dropped.total / dropped.weight == pytest.approx((taken & ~kept).sum() / taken.sum())
    assert not dropped.penalty


def test_the_gradient_of_a_selection_bias_is_the_load_above_the_mean():
    moe = replace(SMALL, scores="sigmoid", selection_bias=True)
    run, params = layer(replace(LLAMA, moe=moe))
    x, is_token = inputs()
    gradients = jax.jit(jax.grad(lambda p: run(p, x, is_token)[0].sum()))(params)
    load = gradients["router"]["selection_bias"]
    maximum = run(params, x, is_token)[1]["expert_load_max"]
    mean = 3 * 13 * 2 / 8
    assert load.sum() == pytest.approx(0, abs=1e-4)
    assert load.max() == pytest.approx(float(maximum.total / maximum.weight - 1) * mean, rel=1e-5)


PATTERN = replace(
    LLAMA,
    num_decoder_layers=5,
    moe=replace(SMALL, dense_layers=(0, 2, 4), balance_loss=0.5, shared_width=8),
)


def test_layers_may_be_dense_or_sparse():
    model, params = make(PATTERN)
    stack = params["decoder"]
    assert stack["layers_sparse"]["mlp"]["experts"]["up"]["kernel"].shape == (2, 8, 16, 12)
    assert stack["layers_64"]["mlp"]["up"]["kernel"].shape == (3, 16, 64)
    loss = jax.jit(lambda params: token_loss(model, params, batch(PATTERN)))(params)
    balance = loss.sums["router_balance_loss"]
    added = loss.weight * 0.5 * balance.total / balance.weight
    assert loss.objective == pytest.approx(float(loss.sums["loss"].total + added), rel=1e-5)
    assert balance.weight == 2 * 8 * 7, "two layers of rows with 7 tokens"


@pytest.mark.once
@pytest.mark.parametrize("remat", ["full", "gate,up"])
def test_rematerialization_changes_no_gradient(remat):
    config = replace(LLAMA, num_decoder_layers=1, moe=SMALL)

    def gradients(compute):
        model, params = make(config, compute)
        return jax.jit(jax.grad(lambda p: token_loss(model, p, batch(config)).objective))(params)

    assert_close(gradients(ComputeConfig(remat=remat)), gradients(FLOAT32))


def test_decoding_with_a_cache_equals_the_full_forward():
    model, params = make(PATTERN)
    expected = jax.jit(model.apply)(params, tokens())
    cache, decode = model.init_cache(8, 8), jax.jit(model.decode)
    for place in range(8):
        here = jnp.full((8, 1), place)
        logits, cache = decode(params, tokens()[:, place : place + 1], here, cache)
        np.testing.assert_allclose(logits[:, 0], expected[:, place], atol=2e-4)


def test_parameters_and_flops_that_a_token_uses():
    """Per sparse layer: a router of 16 x 8, 2 of 8 experts of 3 x 16 x 12, a shared one of 8."""
    config = replace(PATTERN, tie_embeddings=True)
    attention, dense = 16 * 4 * (4 + 2 + 2 + 4), 3 * 16 * 64
    sparse = 16 * 8 + 3 * 16 * (2 * 12 + 8)
    weights = 5 * attention + 3 * dense + 2 * sparse + 32 * 16
    assert flops_per_token(config, 8) == 6 * weights + 5 * 12 * 16 * 8
    model = Model(config)
    assert model.num_active_params() == weights + 11 * 16  # the scales of norms
    assert model.num_params() - model.num_active_params() == 2 * 6 * 3 * 16 * 12


@pytest.mark.once
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_quantized_experts_are_near_those_of_float32(weights):
    config = replace(LLAMA, d_model=64, moe=replace(SMALL, expert_width=32))
    run, params = layer(config)
    x, _ = inputs(width=64)
    kernels = {
        name: part | {"kernel": quantize(part["kernel"], axes, (-2,), weights)}
        for (name, part), axes in zip(
            params["experts"].items(), (AXES.down, AXES.gate, AXES.up), strict=True
        )
    }
    y, expected = run(params | {"experts": kernels}, x)[0], run(params, x)[0]
    error = jnp.linalg.norm(y - expected) / jnp.linalg.norm(expected)
    assert 0 < error < {"int8": 0.02, "int4": 0.15}[weights]


BAD = {
    "none": ({"num_experts": 0}, "moe.num_experts must be positive"),
    "many": ({"experts_per_token": 9}, "exceeds the 8 experts that a token can choose from"),
    "groups": ({"groups": 3}, "does not divide into 3 groups"),
    "choice": ({"groups": 4, "experts_per_token": 3}, "exceeds the 2 experts"),
    "single": ({"groups": 8, "groups_per_token": 2}, "choose max"),
    "group": ({"groups": 2, "groups_per_token": 3}, "groups_per_token 3 exceeds groups 2"),
    "layer": ({"dense_layers": (2,)}, "not all among the 2 layers"),
    "gate": ({"shared_gate": True}, "no meaning without shared_width"),
    "scores": ({"scores": "tanh"}, "scores must be one of softmax, sigmoid, sparsemixer"),
    "mixer": ({"scores": "sparsemixer"}, "normalize false"),
    "capacity": ({"capacity_factor": 0.0}, "capacity_factor must be positive or None"),
    "scale": ({"weight_scale": 0.0}, "weight_scale must be positive"),
    "loss": ({"z_loss": -1.0}, "z_loss must be from 0 up"),
    "width": ({"expert_width": 0}, "expert_width must be positive or None"),
    "shared": ({"shared_width": -1}, "shared_width must not be negative"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_named(name):
    change, message = BAD[name]
    with pytest.raises(UserError, match=message):
        resolve(replace(LLAMA, moe=replace(SMALL, **change)), 32)


ADAPTED = replace(
    LLAMA,
    moe=replace(SMALL, shared_width=16),
    lora=LoraConfig(rank=3, alpha=12.0, targets=("query", "gate", "up", "down")),
)


def adapted_params(model):
    """Random parameters, those of adapters not zero."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def test_adapters_of_experts_are_what_merging_adds():
    model = Model(resolve(ADAPTED, 32), FLOAT32)
    merged_model = Model(replace(model.config, lora=None), FLOAT32)
    params = adapted_params(model)
    experts = params["decoder"]["layers"]["mlp"]["experts"]
    n, d, f = SMALL.num_experts, LLAMA.d_model, model.config.expert_width
    assert experts["up"]["lora_a"].shape[1:] == (n, d, 3)
    assert experts["down"]["lora_b"].shape[1:] == (n, 3, d)
    assert experts["down"]["lora_a"].shape[1:] == (n, f, 3)
    tokens = jax.random.randint(jax.random.key(2), (2, 16), 0, 32)

    def loss(params, which):
        return jnp.sum(jnp.square(which.apply(params, tokens)))

    plain = merged(params, model.config.lora)
    assert float(loss(params, model)) == pytest.approx(float(loss(plain, merged_model)), rel=1e-5)

    def by_merging(params):
        return loss(merged(params, model.config.lora), merged_model)

    found, expected = jax.grad(loss)(params, model), jax.grad(by_merging)(params)
    for (path, gradient), (_, want) in zip(flatten(found), flatten(expected), strict=True):
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(gradient, want, atol=2e-5 * max(scale, 1e-3), err_msg=path)


def test_adapters_of_experts_count_in_the_flops_of_a_token():
    configs = [resolve(replace(ADAPTED, lora=replace(ADAPTED.lora, rank=r)), 32) for r in (3, 6)]
    layers, d, k = LLAMA.num_decoder_layers, LLAMA.d_model, SMALL.experts_per_token
    sides = 3 * (k * (d + SMALL.expert_width) + d + 16) + d + LLAMA.num_heads * LLAMA.head_width
    small, large = (flops_per_token(config, 16) for config in configs)
    assert large - small == pytest.approx(6 * 3 * layers * sides)
