"""On a GPU: attention kernels compute the reference's, training learns, decoding is the forward
pass."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from llmjax.data.batch import Batch
from llmjax.decoding.rows import fill_cache
from llmjax.losses.token_loss import token_loss
from llmjax.model.attention import attention
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.layers import TRAIN
from llmjax.model.model import Model
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel.mesh import MeshConfig, make_mesh, place
from llmjax.state import make_state
from llmjax.step import make_train_step

ROWS, LENGTH, VOCABULARY = 4, 512, 512
CUDNN, TRITON = {pretend.CUDNN: 1, pretend.CUDNN_BACKWARD: 1}, {pretend.PALLAS: 3}
PACKED = Mask(True, True)  # replaced by arrays
CASES = {
    "causal": (CUDNN, Mask(), {}),
    "window": (CUDNN, Mask(window=100), {}),
    "both ways": (CUDNN, Mask(causal=False), {}),
    "packed": (TRITON, PACKED, {}),
    "packed, heads of 128": (TRITON, PACKED, {"width": 128}),
    "packed, wide heads": (TRITON, PACKED, {"width": 192}),
    "packed window": (TRITON, replace(PACKED, window=100), {}),
    "packed, both ways": (TRITON, replace(PACKED, causal=False), {}),
    "window both ways": (TRITON, Mask(causal=False, window=100), {}),
    "capped": (TRITON, Mask(), {"softcap": 20.0}),
}


def segments(rows, length, documents=5):
    """int32 [rows, length]: documents of random lengths, then padding."""
    random = np.random.default_rng(1)
    ends = np.sort(random.integers(1, length - length // 16, (rows, documents)), axis=1)
    places = np.arange(length)
    ids = 1 + (places[None, :, None] >= ends[:, None, :]).sum(-1)
    return jnp.asarray(np.where(ids > documents, 0, ids), jnp.int32)


def operands(rows, length, heads, kv_heads, width, dtype):
    keys = jax.random.split(jax.random.key(0), 4)
    counts = (heads, kv_heads, kv_heads, heads)
    shapes = [(rows, length, count, width) for count in counts]
    return [jax.random.normal(k, s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]


def output_and_gradients(mask, softcap, backend, q, k, v, weight):
    """[output, gradients by q, k and v], float32."""

    def total(q, k, v):
        out = attention.attend(AttentionInputs(q, k, v, mask, TRAIN, softcap), backend)
        out = out.astype(jnp.float32)
        return (out * weight.astype(jnp.float32)).sum(), out

    (_, out), gradients = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)
    return [out, *(x.astype(jnp.float32) for x in gradients)]


def check_close(found, expected, share):
    """Within a share of the largest value, as bfloat16 rounds."""
    for name, a, b in zip(("output", "dq", "dk", "dv"), found, expected, strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=0, atol=share * scale, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_the_reference(case):
    kernel, mask, options = CASES[case]
    if mask.query_segments is not None:
        ids = segments(ROWS, LENGTH)
        mask = replace(mask, query_segments=ids, key_segments=ids)
    width, softcap = options.get("width", 64), options.get("softcap")
    inputs = operands(ROWS, LENGTH, 8, 2, width, jnp.bfloat16)
    fused = jax.jit(partial(output_and_gradients, mask, softcap, "auto"))
    assert pretend.kernels(fused.trace(*inputs)) == kernel
    found = fused(*inputs)
    exact = [x.astype(jnp.float32) for x in inputs]
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(partial(output_and_gradients, mask, softcap, "reference"))(*exact)
    check_close(found, expected, 0.02)


def test_long_packed_rows():
    """In full size, against the implementation in blocks."""
    inputs = operands(1, 8192, 8, 2, 128, jnp.bfloat16)
    ids = segments(1, 8192, 7)
    mask = Mask(ids, ids)
    found = jax.jit(partial(output_and_gradients, mask, None, "auto"))(*inputs)
    expected = jax.jit(partial(output_and_gradients, mask, None, "blocked"))(*inputs)
    check_close(found, expected, 0.02)


def model(**compute):
    config = ModelConfig(
        vocab_size=VOCABULARY, max_length=LENGTH, d_model=256, num_decoder_layers=2, num_heads=4,
        num_kv_heads=2, d_ff=512,
    )  # fmt: skip
    return Model(config, ComputeConfig(dtype="bfloat16", **compute))


def losses(network, *, packed, steps=12) -> list[float]:
    """Of training on one batch."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    schedule = ScheduleConfig(shape="constant", warmup_steps=0)
    optimizer = make_optimizer(AdamWConfig(schedule=schedule), 100, network.logical_axes())
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, LENGTH + 1), np.int32)
    places = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    arrays = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones((ROWS, LENGTH), np.float32),
        "positions": places,
    }
    if packed:
        arrays["segments"] = np.ones((ROWS, LENGTH), np.int32)
    batch: Batch = {name: place(x, mesh, "batch", "length") for name, x in arrays.items()}
    step = make_train_step(
        lambda params, batch, key: token_loss(network, params, batch), optimizer, seed=0
    )
    state, found = make_state(network, optimizer, 0, mesh), []
    for _ in range(steps):
        with jax.set_mesh(mesh):
            state, metrics = step(state, batch)
        found.append(float(metrics.objective))
    return found


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_training_learns_and_packing_one_document_changes_nothing(remat):
    packed = losses(model(remat=remat), packed=True)
    plain = losses(model(remat=remat), packed=False)
    assert packed[-1] < packed[0] - 1
    np.testing.assert_allclose(packed, plain, rtol=0.02)


def test_decoding_is_the_forward_pass():
    network = model()
    params = jax.jit(network.init)(jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (ROWS, 128), 0, VOCABULARY)

    @jax.jit
    def whole(params, tokens):
        return network.logits(params, network.hidden(params, tokens))

    expected = whole(params, tokens)[:, -1]
    cache = fill_cache(network, params, tokens[:, :-1], slots=128)
    places = jnp.full((ROWS, 1), 127)
    logits, _ = jax.jit(network.decode)(params, tokens[:, -1:], places, cache)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(logits[:, 0], expected, rtol=0, atol=0.03 * scale)
