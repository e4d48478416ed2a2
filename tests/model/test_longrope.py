"""LongRoPE: a text's length decides how its positions rotate."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from shapes import LLAMA, MESHES, applied, assert_close, make, placed, tokens

from llmjax.model.rope import LongRopeScaling, text_lengths
from llmjax.parallel.mesh import make_mesh

SCALING = LongRopeScaling((1.0, 1.5), (3.0, 8.0), original_length=5, attention_factor=1.1)
BOTH = replace(LLAMA, rope_scaling=SCALING)
LONG = replace(LLAMA, rope_scaling=replace(SCALING, by_length=False))
SHORT = replace(LLAMA, rope_scaling=replace(SCALING, by_length=False, long_factors=(1.0, 1.5)))


def test_lengths_of_packed_texts():
    positions = jnp.array([[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]])
    assert text_lengths(positions).tolist() == [[3, 3, 3, 2, 2, 1, 2, 2], [8] * 8]


def test_each_text_of_a_row_by_its_own_length():
    row = tokens(8, 12)
    segments = jnp.broadcast_to(jnp.array([1] * 4 + [2] * 8), (8, 12))
    positions = jnp.broadcast_to(jnp.array([*range(4), *range(8)]), (8, 12))
    inputs = {"segments": segments, "positions": positions}
    out, long, short = (applied(config)(row, **inputs) for config in (BOTH, LONG, SHORT))
    assert np.abs(long - short)[:, 1:4].max() > 1e-3
    assert_close(out[:, :4], short[:, :4], 1e-6)
    assert_close(out[:, 4:], long[:, 4:], 1e-6)
    with jax.set_mesh(make_mesh(MESHES["sequence"])):
        model, params = make(BOTH)
        spread = jax.jit(model.apply)(placed(params, model), row, **inputs)
        assert_close(jax.device_get(spread), out, 1e-5)


def test_decoding_knows_the_length_to_come():
    """Rows of 4 and of 8 tokens in one batch, each as its own full pass."""
    model, params = make(BOTH)
    row, positions = np.asarray(tokens(2, 8)), np.broadcast_to(np.arange(8), (2, 8))
    lengths = jnp.array([4, 8])
    expected = [applied(config)(row)[i] for i, config in enumerate((SHORT, LONG))]
    fill = partial(model.prefill, length=8)
    cache = jax.jit(fill)(params, row[:, :3], text_lengths=lengths)
    logits, cache = jax.jit(model.decode)(params, row[:, 3:4], positions[:, 3:4], cache)
    for i in range(2):
        assert_close(logits[i, 0], expected[i][3], 1e-5)
    started = model.init_cache(2, 8, text_lengths=lengths)
    logits, _ = jax.jit(model.decode)(params, row[:, :4], positions[:, :4], started)
    for i in range(2):
        assert_close(logits[i], expected[i][:4], 1e-5)
    assert cache.take(jnp.array([1, 1])).is_long.tolist() == [True, True]
