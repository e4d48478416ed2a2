"""The TPU's attention kernel, interpreted: values and gradients, split over devices too."""

from functools import partial

import jax
import numpy as np
import pytest

from llmjax.model.attention import attention, fused
from llmjax.model.attention import splash as attention_splash
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.layers import TRAIN
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

T, HEADS, KV, WIDTH = 256, 2, 2, 8
SEGMENTS = np.repeat([[1, 1, 2, 2, 2, 3, 3, 0], [1, 2, 2, 2, 3, 3, 4, 4]], 32, axis=1)
SEGMENTS = SEGMENTS.astype(np.int32)
OTHERS = np.repeat([[1, 1, 1, 2, 2, 2, 0, 0], [1, 2, 2, 3, 4, 4, 4, 0]], 16, axis=1)
OTHERS = OTHERS.astype(np.int32)
CASES = {
    "window both ways": (Mask(SEGMENTS, SEGMENTS, None, False, 40), None),
    "cross": (Mask(SEGMENTS, OTHERS, causal=False), None),
    "cross, all keys": (Mask(None, OTHERS, causal=False), None),
    "split over rows, length and heads": (
        Mask(SEGMENTS, SEGMENTS, window=40),
        {"fsdp": 2, "sequence": 2, "tensor": 2},
    ),
    "split over rows and heads": (Mask(SEGMENTS, SEGMENTS, causal=False), {"tensor": 2, "fsdp": 2}),
}


def both(path, mask, weight, laid, q, k, v):
    """The output and its gradients by q, k, v."""

    def total(q, k, v):
        if laid:
            q = mesh.reshard(q, *TRAIN.heads())
            k, v = (mesh.reshard(x, *fused.axes_of(TRAIN).keys) for x in (k, v))
        out = mesh.reshard(path(AttentionInputs(q, k, v, mask, TRAIN)), None, None, None, None)
        return (out * weight).sum(), out

    (_, out), gradients = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


@pytest.mark.parametrize("case", CASES)
def test_as_the_reference(case):
    mask, sizes = CASES[case]
    s = mask.key_segments.shape[1]
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((2, T, HEADS, WIDTH), (2, s, KV, WIDTH), (2, s, KV, WIDTH), (2, T, HEADS, WIDTH))
    *operands, weight = (2 * jax.random.normal(key, x) for key, x in zip(keys, shapes, strict=True))
    assert attention_splash.supports(AttentionInputs(*operands, mask, TRAIN))
    expected = jax.jit(partial(both, attention.reference, mask, weight, False))(*operands)
    splash = partial(both, attention_splash.splash, mask, weight)
    if sizes is None:
        results = jax.jit(partial(splash, False))(*operands)
    else:
        with jax.set_mesh(mesh.make_mesh(MeshConfig(**{"fsdp": 1} | sizes), _some(sizes))):
            results = jax.jit(partial(splash, True))(*operands)
    for result, value in zip(results, expected, strict=True):
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(result, value, rtol=0, atol=1e-5 * scale)


def _some(sizes):
    return jax.devices()[: int(np.prod(list(sizes.values())))]
