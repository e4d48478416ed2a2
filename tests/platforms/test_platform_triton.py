"""Our attention kernels for GPUs, interpreted: values and gradients, split over devices too."""

from functools import partial

import jax
import numpy as np
import pytest

from llmjax.model.attention import attention, triton
from llmjax.model.attention.mask import AttentionInputs, Mask
from llmjax.model.attention.ranges import block_ranges
from llmjax.model.attention.triton_kernels import Tiles
from llmjax.model.layers import TRAIN
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

T, HEADS, KV, WIDTH = 64, 4, 2, 24
KEYS = ("batch", None, "kv_heads", "head_dim")
SEGMENTS = np.repeat([[1, 1, 2, 2, 2, 3, 3, 0], [0, 0, 1, 1, 1, 2, 2, 2]], 8, axis=1)
SEGMENTS = SEGMENTS.astype(np.int32)
OTHERS = np.repeat([[1, 1, 1, 2, 2, 2, 0, 0], [0, 2, 2, 3, 4, 1, 1, 0]], 4, axis=1)
OTHERS = OTHERS.astype(np.int32)
CASES = {
    "packed": (Mask(SEGMENTS, SEGMENTS), None, None),
    "packed window": (Mask(SEGMENTS, SEGMENTS, window=11), 3.0, None),
    "window both ways": (Mask(SEGMENTS, SEGMENTS, None, False, 11), None, None),
    "cross": (Mask(SEGMENTS, OTHERS, causal=False), None, None),
    "cross, all keys": (Mask(None, OTHERS, causal=False), 3.0, None),
    "split": (Mask(SEGMENTS, SEGMENTS), None, {"fsdp": 2, "tensor": 2}),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks in a row, of other sizes each way."""
    for name, sizes in {"FORWARD": (32, 16), "BY_QUERIES": (16, 32), "BY_KEYS": (16, 16)}.items():
        monkeypatch.setattr(triton, name, triton.Sizes(*sizes, stages=1))


def both(path, mask, softcap, weight, laid, q, k, v):
    """The output and its gradients by q, k, v."""

    def total(q, k, v):
        if laid:
            q = mesh.reshard(q, *TRAIN.heads())
            k, v = (mesh.reshard(x, *KEYS) for x in (k, v))
        out = path(AttentionInputs(q, k, v, mask, TRAIN, softcap))
        out = mesh.reshard(out, None, None, None, None)
        return (out * weight).sum(), out

    (_, out), gradients = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


@pytest.mark.parametrize("case", CASES)
def test_as_the_reference(case):
    mask, softcap, sizes = CASES[case]
    s = mask.key_segments.shape[1]
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((2, T, HEADS, WIDTH), (2, s, KV, WIDTH), (2, s, KV, WIDTH), (2, T, HEADS, WIDTH))
    *operands, weight = (2 * jax.random.normal(key, x) for key, x in zip(keys, shapes, strict=True))
    expected = jax.jit(partial(both, attention.reference, mask, softcap, weight, False))(*operands)
    flash = partial(both, triton.flash, mask, softcap, weight)
    if sizes is None:
        results = jax.jit(partial(flash, False))(*operands)
    else:
        with jax.set_mesh(mesh.make_mesh(MeshConfig(**sizes), jax.devices()[:4])):
            results = jax.jit(partial(flash, True))(*operands)
    for result, value in zip(results, expected, strict=True):
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(result, value, rtol=0, atol=1e-5 * scale)
    if mask.query_segments is not None:
        assert not np.any(np.asarray(results[0])[np.asarray(mask.query_segments) == 0])


@pytest.mark.parametrize("case", [name for name in CASES if name != "split"])
def test_ranges_hold_what_is_visible(case):
    """All of it, and no whole block that is not; documents in order leave no block too many."""
    mask = CASES[case][0]
    t, s = T, mask.key_segments.shape[1]
    dense = np.broadcast_to(mask.dense(t, s), (2, t, s))
    tiles = Tiles(mask.causal, mask.window, 8, 16, None, WIDTH)
    by_query, by_key = block_ranges(tiles, t, s, mask.query_segments, mask.key_segments)
    blocks = dense.reshape(2, t // 8, 8, s // 16, 16).swapaxes(2, 3)
    some, whole = blocks.any((3, 4)), blocks.all((3, 4))
    for ranges, any_, all_ in (
        (by_query, some, whole),
        (by_key, some.swapaxes(1, 2), whole.swapaxes(1, 2)),
    ):
        for (first, start, stop, end), seen, full in zip(
            np.asarray(ranges).reshape(-1, 4),
            any_.reshape(-1, any_.shape[-1]),
            all_.reshape(-1, all_.shape[-1]),
            strict=True,
        ):
            assert first <= start <= stop <= end
            assert not seen[:first].any()
            assert not seen[end:].any()
            assert full[start:stop].all()
    if case == "packed":
        assert (np.asarray(by_query)[..., 3] - np.asarray(by_query)[..., 0] == some.sum(-1)).all()
        assert (np.asarray(by_query)[..., 2] > np.asarray(by_query)[..., 1]).any()
