"""Values of another width than keys, in every implementation."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import assert_close

from llmjax.model.attention import (
    all_to_all,
    attention,
    blocked,
    cudnn,
    ring,
    splash,
    triton,
    unrolled,
    widths,
)
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.layers import TRAIN, ActivationSharding
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

SEGMENTS = np.repeat([[1, 1, 2, 2, 3, 3, 3, 0]], 16, axis=1).astype(np.int32)
MASK = Mask(SEGMENTS, SEGMENTS, window=40)
PATHS = {
    "blocked": partial(blocked.blocked, block=48),
    "unrolled": partial(unrolled.unrolled, block=48),
    "ring": partial(ring.ring, kernel="blocked"),
    "ring on TPUs": widths.equal_widths(partial(ring.ring, kernel="pallas")),
    "splash": splash.splash,
    "triton": widths.equal_widths(triton.flash),
    "cudnn": widths.equal_widths(partial(cudnn.cudnn, implementation="xla")),
}
WIDTHS = [(24, 16), (8, 16)]


def operands(keys: int, values: int, batch: int = 1):
    shapes = ((batch, 128, 4, keys), (batch, 128, 2, keys), (batch, 128, 2, values))
    draw = jax.random.split(jax.random.key(0), 3)
    return [2 * jax.random.normal(key, shape) for key, shape in zip(draw, shapes, strict=True)]


def outputs(path, q, k, v, mask=MASK, sharding=TRAIN):
    """The output, and the gradients of a weighted sum of it."""

    def total(*args):
        spread = [mesh.reshard(x, "batch", sharding.length, "heads", None) for x in args]
        out = path(AttentionInputs(*spread, mask, sharding))
        out = mesh.reshard(out, None, None, None, None)
        return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


@pytest.mark.once
@pytest.mark.parametrize("sizes", WIDTHS)
@pytest.mark.parametrize("path", PATHS)
def test_values_and_gradients(path, sizes):
    args = operands(*sizes)
    expected = outputs(attention.reference, *args)
    assert expected[0].shape[-1] == sizes[1]
    assert_close(outputs(PATHS[path], *args), expected, 2e-5)


@pytest.mark.parametrize("context", ["ring", "all_to_all"])
def test_split_rows(context):
    args = operands(*WIDTHS[0], batch=2)
    mask = replace(MASK, **dict.fromkeys(("query_segments", "key_segments"), SEGMENTS.repeat(2, 0)))
    expected = outputs(attention.reference, *args, mask)
    path = ring.ring
    if context == "all_to_all":
        path = partial(all_to_all.all_to_all, attend=attention.attend)
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))):
        found = outputs(path, *args, mask, ActivationSharding(context=context))
        assert_close(jax.device_get(found), jax.device_get(expected), 2e-5)
