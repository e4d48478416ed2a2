"""Decoding with a cache computes what the full forward pass does."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import (
    BOTH,
    GPT,
    LLAMA,
    MESHES,
    MLA,
    applied,
    assert_close,
    make,
    placed,
    source,
    tokens,
)

from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.model.rope import Llama3Scaling
from llmjax.parallel.mesh import make_mesh

WINDOWED = replace(LLAMA, window=4, qk_norm=True)
GEMMA = replace(
    LLAMA,
    num_decoder_layers=5,
    window=3,
    global_layers=(1, 3),
    window_rope_theta=100.0,
    norm_placement="sandwich",
    norm_unit_offset=True,
    qk_norm=True,
    attention_scale=0.3,
)
NEOX = replace(GPT, positions="rotary", rotary_fraction=0.5, parallel_residual=True)
OLMO = replace(LLAMA, norm_placement="output", qk_norm=True, qk_norm_over="projection")
SMOL = replace(LLAMA, unrotated_layers=(1,), rope_scaling=Llama3Scaling(4.0, 8))
T5 = replace(BOTH, positions="relative", relative_buckets=8, relative_max_distance=10)
T5 = replace(T5, attention_scale=1.0, window=None, attention_softcap=None)
DECODERS = {
    "windowed": WINDOWED,
    "gpt": GPT,
    "both": BOTH,
    "gemma": GEMMA,
    "neox": NEOX,
    "olmo": OLMO,
    "smol": SMOL,
    "t5": T5,
    "mla": MLA,
}
LENGTHS = np.array([5, 2, 4, 1, 3, 5, 5, 2])


def run(model: Model, params, config, row, steps: int = 3) -> list:
    """Reads prompts padded at the end, then `steps` tokens; returns the logits of each call."""
    encoded_inputs = {}
    if config.is_encoder_decoder:
        encoder_tokens = source(config)["encoder_tokens"]
        encoded = jax.jit(model.encode)(params, encoder_tokens)
        encoded_inputs = {"encoded": encoded, "params": params}
    cache = model.init_cache(8, 12, **encoded_inputs)
    decode = jax.jit(model.decode)
    prompt = np.where(np.arange(5) < LENGTHS[:, None], row[:, :5], 31)
    logits, cache = decode(params, prompt, np.broadcast_to(np.arange(5), (8, 5)), cache)
    out = [logits]
    for step in range(steps):
        positions = LENGTHS[:, None] + step
        logits, cache = decode(params, np.take_along_axis(row, positions, 1), positions, cache)
        out.append(logits)
    return out


@pytest.mark.parametrize("name", DECODERS)
def test_steps_equal_the_full_pass(name):
    config = DECODERS[name]
    row = np.asarray(tokens(8, 8))
    full = np.asarray(applied(config)(row, **source(config)))
    prompt, *steps = run(*make(config), config, row)
    for i, length in enumerate(LENGTHS):
        assert_close(prompt[i, :length], full[i, :length], 1e-5)
        for step, logits in enumerate(steps):
            assert_close(logits[i, 0], full[i, length + step], 1e-5)


@pytest.mark.parametrize("name", ["both", "gemma", "mla"])
def test_meshes(name):
    """A single token is not split along its length."""
    config = DECODERS[name]
    row = np.asarray(tokens(8, 8))
    model, params = make(config)
    expected = run(model, params, config, row, 1)
    with jax.set_mesh(make_mesh(MESHES["tensor"])):
        spread = run(model, placed(params, model), config, row, 1)
        assert_close(jax.device_get(spread), jax.device_get(expected), 1e-5)


DECODER_ONLY = [name for name, config in DECODERS.items() if not config.is_encoder_decoder]


@pytest.mark.parametrize("kind", ["", *MESHES])
@pytest.mark.parametrize("name", DECODER_ONLY)
def test_a_prefilled_cache_is_what_decoding_writes(name, kind):
    if kind and name not in ("windowed", "mla"):
        pytest.skip("two architectures show it")
    model, params = make(DECODERS[name])
    row, positions = np.asarray(tokens(8, 6)), np.broadcast_to(np.arange(6), (8, 6))

    def both(params):
        stepped = jax.jit(model.decode)(params, row, positions, model.init_cache(8, 12))[1]
        return jax.jit(partial(model.prefill, length=12))(params, row), stepped

    if not kind:
        filled, stepped = both(params)
    else:
        with jax.set_mesh(make_mesh(MESHES[kind])):
            filled, stepped = both(placed(params, model))
            shardings = [jax.tree.map(jax.typeof, cache) for cache in (filled, stepped)]
            assert shardings[0] == shardings[1]
    assert np.any(filled.keys[0][..., :6])
    assert not np.any(filled.keys[0][..., 6:])
    for a, b in zip(*map(jax.tree.leaves, (filled, stepped)), strict=True):
        assert_close(jax.device_get(a), jax.device_get(b), 1e-5)


def test_only_one_token_of_each_row():
    model, params = make(WINDOWED)
    row, positions = tokens(8, 5), np.broadcast_to(np.arange(5), (8, 5))
    cache = model.init_cache(8, 12)
    every, _ = jax.jit(model.decode)(params, row, positions, cache)
    logits, _ = jax.jit(model.decode)(params, row, positions, cache, only=LENGTHS - 1)
    assert logits.shape == (8, 1, 32)
    assert_close(logits[:, 0], every[np.arange(8), LENGTHS - 1], 1e-6)


def test_padding_of_the_source_is_hidden():
    model, params = make(BOTH)
    encoder_tokens = source(BOTH)["encoder_tokens"]
    segments = (jnp.arange(12) < 7).astype(jnp.int32)[None].repeat(8, 0)
    row, positions = tokens(8, 1), np.zeros((8, 1), np.int32)

    @jax.jit
    def first(encoder_tokens):
        encoded = model.encode(params, encoder_tokens, segments)
        cache = model.init_cache(8, 4, encoded=encoded, encoder_segments=segments, params=params)
        return model.decode(params, row, positions, cache)[0]

    assert_close(first(encoder_tokens), first(encoder_tokens.at[:, 7:].set(0)), 1e-6)
    assert jnp.abs(first(encoder_tokens) - first(encoder_tokens.at[:, :7].set(0))).max() > 1e-3


def test_positions_beyond_the_cache_are_dropped():
    model, params = make(WINDOWED)
    cache = model.init_cache(8, 4)
    _, after = model.decode(params, tokens(8, 1), np.full((8, 1), 4), cache)
    assert not np.any(after.keys)


def test_a_short_prompt_of_two_rows_in_bfloat16():
    """The shape at which XLA's CPU backend refused bfloat16 products with float32 sums."""
    config = ModelConfig(
        vocab_size=64, max_length=64, d_model=256, num_decoder_layers=1, num_heads=4, d_ff=64
    )
    exact, fast = (Model(config, ComputeConfig(dtype=dtype)) for dtype in ("float32", "bfloat16"))
    params = jax.jit(exact.init)(jax.random.key(0))
    prompt = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    positions = jnp.broadcast_to(jnp.arange(4), (2, 4))
    expected, logits = (
        jax.jit(model.decode)(params, prompt, positions, model.init_cache(2, 64))[0]
        for model in (exact, fast)
    )
    np.testing.assert_allclose(logits, expected, atol=0.05)


def made_in_a_loop(config, dtype, rows, length, shapes):
    """The operations of the compiled loop over tokens that write one of these shapes."""
    model = Model(config, ComputeConfig(dtype=dtype))

    def generate(params, token, cache):
        def step(state, position):
            token, cache = state
            positions = jnp.full_like(token, position)
            logits, cache = model.decode(params, token, positions, cache)
            return (logits.argmax(-1).astype(jnp.int32), cache), None

        return jax.lax.scan(step, (token, cache), jnp.arange(4))[0]

    params = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)
    arguments = params, jnp.ones((rows, 1), jnp.int32), model.init_cache(rows, length)
    program = jax.jit(generate, donate_argnums=2).lower(*arguments).compile().as_text()
    fusions = tuple(f"{name} " for name in set(re.findall(r"calls=(%[\w.-]+)", program)))
    parts = program.split("\n\n")  # what a fusion computes inside is not written
    program = "\n".join(part for part in parts if not part.strip().startswith(fusions))
    return set(re.findall(rf"= \w+\[(?:{'|'.join(shapes)})\]\S* ([\w-]+)\(", program))


TIED = ModelConfig(
    vocab_size=640, max_length=64, d_model=32, num_decoder_layers=2, num_heads=2, d_ff=64
)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_tied_table_in_bfloat16_is_read_as_it_is(rows):
    """XLA's CPU compiler widened the whole table for its rows, and transposed it for the head."""
    made = made_in_a_loop(TIED, "bfloat16", rows, 8, ["640,32", "32,640"])
    assert "get-tuple-element" in made
    assert made <= {"parameter", "get-tuple-element", "bitcast", "bitcast-convert"}


@pytest.mark.parametrize("rows", [1, 2])
def test_the_cache_is_updated_in_place(rows):
    """XLA's CPU compiler copied the cache of a single row four times for each token."""
    made = made_in_a_loop(TIED, "float32", rows, 48, [f"{rows},2,16,48", f"{rows},2,48,16"])
    assert "get-tuple-element" in made
    assert "copy" not in made
