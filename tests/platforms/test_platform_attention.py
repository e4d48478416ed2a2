"""Which attention GPUs and TPUs use, and that the calls of cuDNN compute the textbook's."""

import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pretend
from llmjax.model.attention import attention, fused
from llmjax.model.attention import cudnn as attention_cudnn
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.layers import DECODE, TRAIN
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

T, HEADS, KV, WIDTH = 256, 4, 2, 64
BLOCKS = "while"
CAUSAL = Mask()


def traced(
    t=T,
    s=T,
    width=WIDTH,
    dtype="bfloat16",
    mask=CAUSAL,
    softcap=None,
    backend="auto",
    sharding=TRAIN,
):
    """Attention and its derivative by all three operands, inside `pretend.devices`."""
    rows = ("batch", sharding.length)
    q = pretend.array((4, t, HEADS, width), dtype, *rows, "heads", None)
    k, v = (pretend.array((4, s, KV, width), dtype, "batch", None, "kv_heads", None),) * 2
    segments = None
    if mask.query_segments is not None:
        segments = (
            pretend.array((4, t), jnp.int32, *rows),
            pretend.array((4, s), jnp.int32, *rows),
        )

    def total(q, k, v, segments):
        queries, keys = segments or (None, mask.key_segments)
        packed = replace(mask, query_segments=queries, key_segments=keys)
        inputs = AttentionInputs(q, k, v, packed, sharding, softcap)
        return attention.attend(inputs, backend).astype(jnp.float32).sum()

    return jax.jit(jax.grad(total, (0, 1, 2))).trace(q, k, v, segments)


SEGMENTED = Mask(True, True)  # replaced by arguments
CUDNN = {pretend.CUDNN: 1, pretend.CUDNN_BACKWARD: 1}
TRITON = {pretend.PALLAS: 3}
FITS_CUDNN = {
    "causal": {},
    "window": {"mask": Mask(window=32)},
    "both ways": {"mask": Mask(causal=False)},
    "named": {"backend": "cudnn"},
    "named, packed": {"backend": "cudnn", "mask": SEGMENTED},
    "named, window both ways": {"backend": "cudnn", "mask": Mask(causal=False, window=32)},
    "packed rows of no full blocks": {"mask": SEGMENTED, "t": T + 2, "s": T + 2},
}
FITS_TRITON = {
    "packed": {"mask": SEGMENTED},
    "window both ways": {"mask": Mask(causal=False, window=32)},
    "packed window": {"mask": replace(SEGMENTED, window=32)},
    "packed, window both ways": {"mask": replace(SEGMENTED, causal=False, window=32)},
    "cross": {"mask": replace(SEGMENTED, causal=False), "s": 2 * T},
    "capped": {"softcap": 20.0},
    "wide heads": {"width": 192},
    "odd heads": {"width": 60},
    "named": {"backend": "triton"},
}
NOT_ON_GPUS = {
    "float32": {"dtype": "float32"},
    "odd length": {"t": T + 1, "s": T + 1},
    "odd length with segments": {"t": T + 1, "s": T + 1, "mask": SEGMENTED},
    "blocked": {"backend": "blocked"},
    "named": {"backend": "cudnn", "softcap": 20.0},
    "named triton": {"backend": "triton", "dtype": "float32"},
}
FITS_SPLASH = {
    "causal": {},
    "float32": {"dtype": "float32"},
    "packed": {"mask": SEGMENTED},
    "window": {"mask": replace(SEGMENTED, window=32)},
    "window both ways": {"mask": replace(SEGMENTED, causal=False, window=32)},
    "both ways": {"mask": replace(SEGMENTED, causal=False)},
    "cross": {"mask": replace(SEGMENTED, causal=False), "s": 2 * T},
    "capped": {"softcap": 20.0},
    "narrow heads": {"width": 24},
    "wide heads": {"width": 256},
}
NOT_SPLASH = {
    "ragged": {"t": T + 1, "s": T + 1},
    "blocked": {"backend": "blocked"},
    "named": {"t": T + 1, "s": T + 1, "backend": "splash"},
}


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("case", FITS_CUDNN)
def test_cudnn(case, sizes):
    with pretend.devices("gpu", **sizes):
        assert pretend.kernels(traced(**FITS_CUDNN[case])) == CUDNN


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("case", FITS_TRITON)
def test_triton(case, sizes):
    with pretend.devices("gpu", **sizes):
        assert pretend.kernels(traced(**FITS_TRITON[case])) == TRITON


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("case", NOT_ON_GPUS)
def test_what_no_kernel_of_gpus_can_do_is_done_in_blocks(case, sizes):
    with pretend.devices("gpu", **sizes):
        program = traced(**NOT_ON_GPUS[case])
        assert pretend.primitives(program.jaxpr)[BLOCKS]
        assert not pretend.kernels(program)
        pretend.lowered(program, "gpu")


def test_a_jax_without_triton(monkeypatch, caplog):
    """Packed rows take cuDNN with a mask, and the reason is said once."""
    monkeypatch.setitem(sys.modules, "llmjax.model.attention.triton", None)
    monkeypatch.delattr("llmjax.model.attention.triton")
    attention._triton.cache_clear()
    try:
        with pretend.devices("gpu"):
            assert pretend.kernels(traced(mask=SEGMENTED)) == CUDNN
            assert not pretend.kernels(traced(softcap=20.0))
    finally:
        attention._triton.cache_clear()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "packed rows use slower attention"
    ]


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("case", FITS_SPLASH)
def test_splash(case, sizes):
    with pretend.devices("tpu", **sizes):
        text = pretend.lowered(traced(**FITS_SPLASH[case]), "tpu")
    assert text.count("custom_call @tpu_custom_call") == 2, "forward, and backward in one"


@pytest.mark.parametrize("sizes", [{}, pretend.EIGHT], ids=["alone", "eight"])
@pytest.mark.parametrize("case", NOT_SPLASH)
def test_what_splash_cannot_do_is_done_in_blocks(case, sizes):
    sizes = sizes and {"fsdp": 4}  # an odd length is split over nothing
    with pretend.devices("tpu", **sizes):
        program = traced(**NOT_SPLASH[case])
        assert pretend.primitives(program.jaxpr)[BLOCKS]
        assert not pretend.kernels(program)
        pretend.lowered(program, "tpu")


@pytest.mark.parametrize("platform", pretend.DEVICES)
def test_short_rows_take_the_reference(platform):
    """No kernel supports them, and blocks would save nothing."""
    with pretend.devices(platform, **pretend.EIGHT):
        program = traced(t=24, s=24, dtype="float32", sharding=DECODE)
        assert not pretend.primitives(program.jaxpr)[BLOCKS]
        assert not pretend.kernels(program)
        pretend.lowered(program, platform)


@pytest.mark.parametrize(
    ("capability", "able"),
    [
        ("7.5", False),
        ("8.0", True),
        ("9.0", True),
        ("10.3", True),
        ("gfx942", False),
        (None, False),
    ],
)
def test_gpus_without_its_kernels(capability, able, monkeypatch):
    """Older ones, and AMD's, which JAX calls GPUs too."""
    device = SimpleNamespace(**({} if capability is None else {"compute_capability": capability}))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    with pretend.devices("gpu", **pretend.EIGHT):
        assert bool(pretend.kernels(traced())) == able
        assert bool(pretend.kernels(traced(backend="cudnn"))) == able
        assert bool(pretend.kernels(traced(mask=SEGMENTED))) == able


SEGMENTS = np.repeat([[1, 1, 2, 2, 3, 0], [0, 1, 1, 2, 2, 2]], 4, axis=1).astype(np.int32)
OTHERS = np.repeat([[1, 1, 2, 2, 0, 0], [1, 1, 1, 2, 0, 0]], 3, axis=1).astype(np.int32)
NUMBERS = {
    "plain": Mask(),
    "window": Mask(window=5),
    "packed": Mask(SEGMENTS, SEGMENTS),
    "packed window": Mask(SEGMENTS, SEGMENTS, window=5),
    "window both ways": Mask(causal=False, window=5),
    "packed, window both ways": Mask(SEGMENTS, SEGMENTS, None, False, 5),
    "cross": Mask(SEGMENTS, OTHERS, causal=False),
    "cross, all keys": Mask(None, OTHERS, causal=False),
}


@pytest.mark.parametrize("sizes", [None, {"fsdp": 2, "tensor": 2}], ids=["alone", "four"])
@pytest.mark.parametrize("case", NUMBERS)
def test_what_cudnn_is_asked_for(case, sizes):
    """The same call, computed by XLA: values and gradients, zeros where nothing is visible."""
    mask = NUMBERS[case]
    t, s = 24, 24 if mask.key_segments is None else mask.key_segments.shape[1]
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((2, t, HEADS, 8), (2, s, KV, 8), (2, s, KV, 8), (2, t, HEADS, 8))
    q, k, v, weight = (jax.random.normal(key, x) for key, x in zip(keys, shapes, strict=True))

    def both(path, q, k, v, sharded):
        def total(q, k, v):
            if sharded:
                q = mesh.reshard(q, *TRAIN.heads())
                k, v = (mesh.reshard(x, *fused.axes_of(TRAIN).keys) for x in (k, v))
            out = path(AttentionInputs(q, k, v, mask, TRAIN))
            out = mesh.reshard(out, None, None, None, None)
            return (out * weight).sum(), out

        (_, out), gradients = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)
        return out, *gradients

    asked = partial(attention_cudnn.cudnn, implementation="xla")
    expected = jax.jit(partial(both, attention.reference, sharded=False))(q, k, v)
    if sizes is None:
        results = jax.jit(partial(both, asked, sharded=False))(q, k, v)
    else:
        with jax.set_mesh(mesh.make_mesh(MeshConfig(**sizes), jax.devices()[:4])):
            results = jax.jit(partial(both, asked, sharded=True))(q, k, v)
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=0, atol=1e-5)
    if mask.query_segments is not None:
        assert not np.any(np.asarray(results[0])[np.asarray(mask.query_segments) == 0])
