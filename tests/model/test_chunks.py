"""Attention within chunks, in every implementation, and what else Llama 4's layers have."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import FLOAT32, LLAMA, MLA, applied, assert_close, batch, make, placed, tokens
from test_attention_widths import MASK, PATHS, operands

from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.attention import attention
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.layers import TRAIN
from llmjax.model.moe_config import MoEConfig
from llmjax.model.rope import Llama3Scaling
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

CHUNKED = replace(
    LLAMA,
    num_decoder_layers=3,
    window=3,
    window_chunks=True,
    global_layers=(1,),
    unrotated_layers=(1,),
    rope_interleaved=True,
    rope_scaling=Llama3Scaling(4.0, 8, 1.0, 1.0),
    qk_norm=True,
    qk_norm_over="rotated",
    query_growth=0.5,
    query_growth_length=2,
)
SPARSE = replace(
    CHUNKED,
    moe=MoEConfig(4, 1, 8, (1,), scores="sigmoid", normalize=False, weight_inputs=True),
)
PLACES = np.where(np.arange(128) < 50, np.arange(128), np.arange(128) - 50)[None]
PACKED = np.where(np.arange(128) < 50, 1, 2 * (np.arange(128) < 120))[None]


def textbook(segments, places, size, causal):
    """[B, T, S] bool: of one document and of one chunk of it."""
    chunks = places // size
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0)
    seen &= chunks[:, :, None] == chunks[:, None]
    return seen & np.tri(segments.shape[1], dtype=bool) if causal else seen


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_mask(causal, size):
    given = jnp.asarray(PACKED)
    mask = Mask(given, given, None, causal, size).in_chunks(jnp.asarray(PLACES), None)
    real = PACKED[0] > 0
    expected = textbook(PACKED, PLACES, size, causal)
    assert np.array_equal(mask.dense(128, 128)[0, real], expected[0, real])
    alone = Mask(None, None, None, causal, size).in_chunks(jnp.arange(128)[None], None)
    row = np.ones((1, 128), np.int32)
    assert np.array_equal(alone.dense(128, 128), textbook(row, np.arange(128)[None], size, causal))


def test_the_mask_of_a_cache():
    index = jnp.array([[3, 4], [6, 9]])
    mask = Mask(index=index, window=4).in_chunks(index, None, 12)
    row = np.ones((1, 12), np.int32)
    rows = textbook(row, np.arange(12)[None], 4, True)[0]
    assert np.array_equal(mask.dense(2, 12), rows[np.asarray(index)])


@pytest.mark.parametrize("path", PATHS)
def test_values_and_gradients(path):
    args = operands(16, 16)
    mask = MASK.in_chunks(jnp.arange(128)[None], None)
    assert not np.array_equal(mask.dense(128, 128), MASK.dense(128, 128))

    def outputs(path, *args):
        def total(*args):
            out = path(AttentionInputs(*args, mask, TRAIN))
            return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

        return jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*args)

    assert_close(outputs(PATHS[path], *args), outputs(attention.reference, *args), 2e-5)


def test_nothing_is_seen_before_the_chunk():
    row = tokens(2, 8)
    apply = applied(replace(CHUNKED, global_layers=(), unrotated_layers=()))
    before = apply(row)
    after = apply(row.at[:, 2].set(1 - row[:, 2] % 2))
    changed = np.abs(np.asarray(after - before)).max((0, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, False, False, False, False, False]


@pytest.mark.parametrize("backend", ["blocked", "splash"])
def test_documents_of_a_row_are_apart(backend):
    """With the positions of each its own, its chunks and its growing queries are too."""
    config, length = replace(SPARSE, max_length=128, window=40), 128
    row, ends = tokens(2, length), (50, 128)
    segments = np.broadcast_to(1 + (np.arange(length) >= 50), row.shape)
    places = np.broadcast_to(PLACES, row.shape)
    compute = ComputeConfig(attention=backend)
    packed = applied(config, compute)(row, positions=places, segments=segments)
    for start, stop in zip((0, *ends), ends, strict=False):
        alone = applied(config, FLOAT32)(row[:, start:stop])
        assert_close(packed[:, start:stop], alone, 2e-5)


@pytest.mark.parametrize("config", [SPARSE, replace(MLA, window=3, window_chunks=True)])
def test_decoding_equals_the_full_pass(config):
    model, params = make(config)
    row, positions = tokens(2, 11), np.broadcast_to(np.arange(11), (2, 11))
    full = jax.jit(model.apply)(params, row)
    cache = jax.jit(partial(model.prefill, length=12))(params, row[:, :4])
    decode = jax.jit(model.decode)
    for start, stop in ((4, 5), (5, 9), (9, 10), (10, 11)):
        logits, cache = decode(params, row[:, start:stop], positions[:, start:stop], cache)
        assert_close(logits, full[:, start:stop], 2e-5)


@pytest.mark.once
@pytest.mark.parametrize("method", ["gather", "ring", "all_to_all"])
def test_split_rows(method):
    """The loss and its gradient on a mesh of all kinds of axes are those of one device."""

    def step(compute):
        model, params = make(CHUNKED, compute)
        params = placed(params, model) if mesh.has_mesh() else params
        loss = jax.jit(jax.value_and_grad(lambda p: token_loss(model, p, batch(CHUNKED)).objective))
        return jax.device_get(loss(params))

    expected = step(FLOAT32)
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))):
        assert_close(step(ComputeConfig(context_parallel=method)), expected, 1e-5)


def test_queries_grow_only_without_positions():
    row = tokens(2, 8)
    still = replace(CHUNKED, query_growth=0.0)
    grown, plain = (np.asarray(applied(c)(row)) for c in (CHUNKED, still))
    assert np.array_equal(grown[:, 0], plain[:, 0])  # floor(1 / 2) = 0
    assert not np.allclose(grown[:, 1:], plain[:, 1:], atol=1e-4)
    rotated = replace(CHUNKED, unrotated_layers=())
    assert np.array_equal(applied(rotated)(row), applied(replace(rotated, query_growth=0.0))(row))


def test_norms_after_rotation_have_no_parameters():
    names = jax.tree.leaves_with_path(make(CHUNKED)[1])
    assert not any("query_norm" in jax.tree_util.keystr(path) for path, _ in names)


def test_a_chunk_counts_as_a_window():
    assert flops_per_token(CHUNKED, 8) == flops_per_token(replace(CHUNKED, window_chunks=False), 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": None, "global_layers": ()}, "window_chunks has no meaning without window"),
        ({"qk_norm_kind": "layernorm"}, "qk_norm_over rotated needs qk_norm_kind rmsnorm"),
        ({"query_growth": -1.0}, "query_growth must be from 0 up"),
        ({"query_growth_length": 0}, "query_growth_length must be positive"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        resolve(replace(CHUNKED, **change), 32)
