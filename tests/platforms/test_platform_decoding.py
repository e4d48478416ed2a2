"""Prefill, decoding and scoring for GPUs and TPUs: every compiled program traces and lowers."""

from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from llmjax.compression import codec
from llmjax.decoding import beams, rows, sampling, steps
from llmjax.losses.token_loss import nll_at, token_nll
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig, Dtype
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.parallel.mesh import reshard

B, T, SLOTS, VOCAB = 8, 128, 192, 512
SIZES = {"d_model": 64, "head_dim": 64, "num_heads": 4, "num_kv_heads": 2, "d_ff": 128}
DECODER = {"num_decoder_layers": 2, "window": 48, "global_layers": (0,)} | SIZES
BOTH = {"num_encoder_layers": 1, "num_decoder_layers": 1, "positions": "relative"} | SIZES
MODELS = {"decoder": DECODER, "both": BOTH}


def model_of(kind, dtype, **changes):
    config = ModelConfig(**MODELS[kind] | {"max_length": 512} | changes)
    return Model(resolve(config, VOCAB), ComputeConfig(dtype=dtype))


def check(traced, platform, *, kernel=None):
    """Checks its kernels, and that it lowers unless a kernel needs the device for that."""
    kernels = pretend.kernels(traced)
    assert set(kernels) == ({kernel} if kernel else set())
    if pretend.CUDNN not in kernels:
        pretend.lowered(traced, platform)


def forward(platform, dtype, packed=False):
    """Returns the kernel of a forward pass."""
    if platform == "tpu":
        return pretend.PALLAS
    if dtype == "float32":
        return None
    return pretend.PALLAS if packed else pretend.CUDNN


def ints(*axes, rows=B):
    return pretend.array((rows, T, 1)[: len(axes)], jnp.int32, *axes)


@pytest.fixture(params=[{}, pretend.EIGHT], ids=["alone", "eight"])
def sizes(request):
    return request.param


@pytest.fixture(params=get_args(Dtype))
def dtype(request):
    return request.param


@pytest.fixture(params=pretend.DEVICES)
def platform(request):
    return request.param


def test_prefill_and_steps(platform, dtype, sizes):
    model = model_of("decoder", dtype)
    with pretend.devices(platform, **sizes):
        params, text = pretend.params_of(model, dtype), ints("batch", None)
        prefill = rows.fill_cache.trace(model, params, text, slots=SLOTS)
        check(prefill, platform, kernel=forward(platform, dtype))
        cache = jax.eval_shape(partial(model.init_cache, B, SLOTS))
        assert {leaf.dtype for leaf in jax.tree.leaves(cache)} == {jnp.dtype(dtype)}
        state = rows.DecodeState(
            cache,
            *(ints("batch") for _ in range(3)),
            pretend.array((B, 2), jnp.uint32, "batch", None),
            pretend.array((B, VOCAB), jnp.bool, "batch", None),
        )
        scalars = sampling.Sampling(*(np.float32(0.5), np.int32(3), *[np.float32(0.5)] * 3))
        inputs = steps.SamplingInputs(scalars, np.uint32(0), np.zeros(1, np.int32), np.int32(VOCAB))
        check(steps.decode_program(platform).trace(model, params, state, inputs), platform)


@pytest.mark.parametrize("kind", MODELS)
def test_beams(kind, platform, dtype, sizes):
    model = model_of(kind, dtype)
    with pretend.devices(platform, **sizes):
        params, text = pretend.params_of(model, dtype), ints("batch", None)
        if kind == "both":
            cache = jax.eval_shape(
                partial(rows.encode_prompts, model, slots=SLOTS), params, text, text
            )
        else:
            cache = jax.eval_shape(partial(model.init_cache, B, SLOTS))
        inputs = beams.SearchInputs(
            ints("batch"), ints("batch"), np.float32(1.0), jnp_array([2]), np.int32(VOCAB)
        )
        search = beams.search.trace(model, params, inputs, cache, ints("batch"), beams=3, length=16)
        check(search, platform)


def jnp_array(values):
    return jax.ShapeDtypeStruct((len(values),), jnp.int32)


def test_scores(platform, dtype, sizes):
    """Of every token, and of some tokens of each row."""
    model = model_of("decoder", dtype)
    kernel = forward(platform, dtype, packed=True)
    with pretend.devices(platform, **sizes):
        params, batch = pretend.params_of(model, dtype), pretend.packed(B, T)
        places = ints("batch", None)

        @jax.jit
        def both(params, batch, places):
            nats, _ = nll_at(model, params, batch, places, batch["targets"])
            return reshard(token_nll(model, params, batch), None, None), reshard(nats, None, None)

        check(both.trace(params, batch, places), platform, kernel=kernel)


def test_compression(platform, dtype):
    """One device and no mesh: an empty cache, a prefilled one, a step, a larger cache."""
    model = model_of("decoder", dtype)
    with pretend.devices(platform):
        params, text = pretend.params_of(model, dtype), ints("batch", None)
        prefill = codec._prefill.trace(model, params, text, slots=SLOTS, context=SLOTS)
        check(prefill, platform, kernel=forward(platform, dtype))
        check(codec._empty.trace(model, B, SLOTS, SLOTS), platform)
        cache = jax.eval_shape(partial(model.init_cache, B, SLOTS))
        check(codec._grow.trace(cache, 2 * SLOTS), platform)
        targets = jax.ShapeDtypeStruct((B,), jnp.uint32)
        expected = (ints("batch"), targets, np.bool_(True))
        allowed = jax.ShapeDtypeStruct((VOCAB,), jnp.bool)
        read = (ints("batch"), np.int32(3))
        step = codec._step.trace(model, params, cache, read, allowed, expected)
        check(step, platform)
        assert all(leaf.donated for leaf in jax.tree.leaves(step.args_info[0][1]))
