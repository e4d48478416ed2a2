"""Attention sinks, in every implementation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import LLAMA, assert_close, make, tokens
from test_attention_widths import MASK, PATHS, SEGMENTS, operands

from llmjax.errors import UserError
from llmjax.model.attention import all_to_all, attention, cudnn, ring, splash
from llmjax.model.attention.mask import AttentionInputs
from llmjax.model.checks import resolve
from llmjax.model.layers import TRAIN, ActivationSharding
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

SINKS = jnp.array([-1.0, 0.5, 2.0, 9.0])
MODEL = replace(LLAMA, attention_sinks=True, window=4, global_layers=(1,))


def outputs(path, sinks, q, k, v, mask=MASK, sharding=TRAIN):
    """The output, and the gradients of a weighted sum of it, by sinks too."""

    def total(sinks, *args):
        lengths = [sharding.length] * 3
        if sharding.context == "gather":
            lengths[1:] = [None] * 2
        pairs = zip(args, lengths, strict=True)
        spread = [mesh.reshard(x, "batch", length, "heads", None) for x, length in pairs]
        spec = mesh.out_sharding("batch", "heads")
        rows = jnp.broadcast_to(sinks, (len(args[0]), 4), out_sharding=spec)
        out = path(AttentionInputs(*spread, mask, sharding, sinks=rows))
        out = mesh.reshard(out, None, None, None, None)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    both = jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))
    (_, out), gradients = both(sinks, q, k, v)
    return out, *gradients


def test_a_sink_is_a_key_without_a_value():
    """With one more key, whose score is the sink and whose value is zero."""
    q, k, v = operands(8, 8)
    out = outputs(attention.reference, SINKS, q, k, v)[0]
    scores = np.einsum("bthk,bshk->bhts", q, np.repeat(k, 2, axis=2)) / np.sqrt(8)
    scores = np.where(MASK.dense(128, 128)[:, None], scores, -np.inf)
    column = np.broadcast_to(SINKS[None, :, None, None], (1, 4, 128, 1))
    weights = jax.nn.softmax(np.concatenate([scores, column], -1), -1)[..., :-1]
    expected = np.einsum("bhts,bshk->bthk", weights, np.repeat(v, 2, axis=2))
    assert_close(out, expected, 1e-5)


@pytest.mark.parametrize("path", [name for name in PATHS if name != "cudnn"])
def test_values_and_gradients(path):
    args = operands(16, 16)
    expected = outputs(attention.reference, SINKS, *args)
    assert np.abs(expected[1]).min() > 1e-3
    assert_close(outputs(PATHS[path], SINKS, *args), expected, 2e-5)


@pytest.mark.once
@pytest.mark.parametrize("method", ["gather", "ring", "all_to_all"])
def test_split_rows(method):
    args = operands(16, 16, batch=2)
    mask = replace(MASK, **dict.fromkeys(("query_segments", "key_segments"), SEGMENTS.repeat(2, 0)))
    expected = outputs(attention.reference, SINKS, *args, mask)
    path = {
        "gather": PATHS["blocked"],
        "ring": ring.ring,
        "all_to_all": partial(all_to_all.all_to_all, attend=attention.attend),
    }[method]
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))):
        found = outputs(path, SINKS, *args, mask, ActivationSharding(context=method))
        assert_close(jax.device_get(found), jax.device_get(expected), 2e-5)


def test_cudnn_has_none():
    q, k, v = (x.astype(jnp.bfloat16) for x in operands(16, 16))
    inputs = AttentionInputs(q, k, v, replace(MASK, query_segments=None, key_segments=None), TRAIN)
    assert cudnn.supports(inputs)
    assert not cudnn.supports(inputs._replace(sinks=SINKS[None]))
    assert splash.supports(inputs._replace(sinks=SINKS[None]))


def test_decoding_equals_the_full_pass():
    model, params = make(MODEL)
    row, positions = tokens(2, 8), np.broadcast_to(np.arange(8), (2, 8))
    full = jax.jit(model.apply)(params, row)
    logits, _ = jax.jit(model.decode)(params, row, positions, model.init_cache(2, 8))
    assert_close(logits, full, 1e-5)
    cache = jax.jit(partial(model.prefill, length=8))(params, row[:, :7])
    last, _ = jax.jit(model.decode)(params, row[:, 7:], positions[:, 7:], cache)
    assert_close(last[:, 0], full[:, 7], 1e-5)


def test_they_need_a_single_stack():
    with pytest.raises(UserError, match="attention_sinks needs a single stack"):
        resolve(replace(MODEL, num_encoder_layers=1), 32)
