"""Attention: every implementation computes what the textbook says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import MESHES, assert_close

from llmjax.errors import UserError
from llmjax.model.attention import attention
from llmjax.model.attention import blocked as attention_blocked
from llmjax.model.attention import cudnn as attention_cudnn
from llmjax.model.attention import splash as attention_splash
from llmjax.model.attention import unrolled as attention_unrolled
from llmjax.model.attention.mask import AttentionInputs, BlockRules, Mask, MaskArrays
from llmjax.model.layers import DECODE, TRAIN
from llmjax.parallel import mesh

B, T, H, N, K = 2, 24, 4, 2, 4
SEGMENTS = np.repeat([[1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2]], 4, axis=1).astype(np.int32)
CASES = [  # causal, window, softcap, segmented
    (True, None, None, False),
    (True, 5, None, True),
    (True, None, 1.5, True),
    (False, 5, 1.5, False),
    (False, None, None, True),
]
PATHS = {
    "reference": attention.reference,
    "blocked": partial(attention_blocked.blocked, block=8),
    "ragged": partial(attention_blocked.blocked, block=10),
    "unrolled": partial(attention_unrolled.unrolled, block=10),
}
GENERAL = [name for name in PATHS if name != "unrolled"]
UNCAPPED = [case for case in CASES if case[2] is None]


def operands(b=B, t=T, s=T, h=H, n=N, k=K, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = ((b, t, h, k), (b, s, n, k), (b, s, n, k))
    return tuple(2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def textbook(q, k, v, mask, softcap):
    """One query of one head at a time, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros_like(q)
    group = q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[:3]):
        index = t if mask.index is None else int(mask.index[b, t])
        seen = []
        for s in range(k.shape[1]):
            near = mask.window is None or abs(index - s) < mask.window
            same = mask.key_segments is None or (
                mask.key_segments[b, s] != 0
                and (
                    mask.query_segments is None
                    or mask.query_segments[b, t] == mask.key_segments[b, s]
                )
            )
            if near and same and (s <= index or not mask.causal):
                seen.append(s)
        if seen:
            scores = k[b, seen, h // group] @ q[b, t, h] / np.sqrt(q.shape[3])
            scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
            odds = np.exp(scores - scores.max())
            out[b, t, h] = odds @ v[b, seen, h // group] / odds.sum()
    return out


def mask_of(causal, window, segmented):
    segments = SEGMENTS if segmented else None
    return Mask(segments, segments, None, causal, window)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("causal", "window", "softcap", "segmented"), CASES)
def test_values(path, causal, window, softcap, segmented):
    if path == "unrolled" and softcap is not None:
        pytest.skip("it is not chosen for capped scores")
    mask = mask_of(causal, window, segmented)
    out = jax.jit(lambda q, k, v: PATHS[path](AttentionInputs(q, k, v, mask, TRAIN, softcap)))(
        *operands()
    )
    assert_close(out, textbook(*operands(), mask, softcap), 2e-6)


def gradients(path, mask, softcap, *args):
    weight = jax.random.normal(jax.random.key(9), args[0].shape)

    def total(*args):
        return (path(AttentionInputs(*args, mask, TRAIN, softcap)) * weight).sum()

    return jax.jit(jax.grad(total, (0, 1, 2)))(*args)


@pytest.mark.parametrize(("causal", "window", "softcap", "segmented"), CASES[1:4])
def test_blocked_gradients(causal, window, softcap, segmented):
    mask = mask_of(causal, window, segmented)
    expected = gradients(attention.reference, mask, softcap, *operands())
    assert_close(gradients(PATHS["ragged"], mask, softcap, *operands()), expected, 1e-5)


@pytest.mark.parametrize(("causal", "window", "softcap", "segmented"), UNCAPPED)
def test_unrolled_gradients(causal, window, softcap, segmented):
    mask = mask_of(causal, window, segmented)
    expected = gradients(attention.reference, mask, softcap, *operands())
    assert_close(gradients(PATHS["unrolled"], mask, softcap, *operands()), expected, 1e-5)


@pytest.mark.parametrize("path", PATHS)
def test_queries_that_see_nothing_get_zeros(path):
    """Padding at the end has no NaN in values or gradients, and no effect."""
    mask = mask_of(True, None, True)
    out = PATHS[path](AttentionInputs(*operands(), mask, TRAIN))
    assert not np.any(out[0, 20:])
    for gradient in gradients(PATHS[path], mask, None, *operands()):
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[0, 20:])


@pytest.mark.parametrize("path", GENERAL)
def test_cross_attention(path):
    """Fewer keys than queries; without query segments, all keys but padding are visible."""
    q, k, v = operands(s=T - 6)
    keys = np.where(np.arange(T - 6) < [[9], [18]], 1, 0).astype(np.int32)
    mask = Mask(None, keys, causal=False)
    out = PATHS[path](AttentionInputs(q, k, v, mask, TRAIN))
    assert_close(out, textbook(q, k, v, mask, None), 2e-6)


@pytest.mark.parametrize("path", GENERAL)
def test_queries_at_given_indices(path):
    """Decoding: queries have the indices of their positions."""
    q, k, v = operands(t=3)
    mask = Mask(index=np.array([[4, 5, 6], [17, 18, 30]], np.int32), window=7)
    out = PATHS[path](AttentionInputs(q, k, v, mask, DECODE))
    assert_close(out, textbook(q, k, v, mask, None), 2e-6)


@pytest.mark.parametrize("path", PATHS)
def test_grouped_heads_are_repeated_heads(path):
    q, k, v = operands()
    grouped = PATHS[path](AttentionInputs(q, k, v, Mask(), TRAIN))
    k, v = (jnp.repeat(x, H // N, axis=2) for x in (k, v))
    repeated = PATHS[path](AttentionInputs(q, k, v, Mask(), TRAIN))
    assert_close(grouped, repeated, 2e-6)


def test_blocked_in_bfloat16():
    args = tuple(x.astype(jnp.bfloat16) for x in operands())
    out = PATHS["blocked"](AttentionInputs(*args, Mask(), TRAIN))
    assert out.dtype == jnp.bfloat16
    exact = textbook(*(x.astype(jnp.float32) for x in args), Mask(), None)
    assert_close(out.astype(jnp.float32), exact, 1e-2)


def largest_array(jaxpr) -> int:
    """Largest size of an array in a jaxpr, including inner ones."""
    sizes = [0]
    for equation in jaxpr.eqns:
        sizes += [var.aval.size for var in equation.outvars]
        for inner in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                sizes.append(largest_array(inner))
    return max(sizes)


def test_blocked_makes_nothing_square():
    q, k, v = operands(1, 512, 512, 1, 1, 2)

    def largest(path):
        total = lambda *args: path(AttentionInputs(*args, Mask(), TRAIN)).sum()  # noqa: E731
        return largest_array(jax.make_jaxpr(jax.grad(total, (0, 1, 2)))(q, k, v).jaxpr)

    assert largest(attention.reference) >= 512 * 512
    assert largest(partial(attention_blocked.blocked, block=16)) <= 512 * 16


@pytest.mark.parametrize(
    ("causal", "window", "blocks"), [(True, None, 10), (True, 9, 7), (False, 9, 10)]
)
def test_blocked_skips_what_no_query_sees(causal, window, blocks):
    q, k, v = operands(1, 32, 32, 1, 1, 2)
    rules = BlockRules(causal, window, None, TRAIN, 8)
    mask = MaskArrays(jnp.arange(32)[None], None, None)
    cut = attention_blocked.tile(q, k, v, mask, rules)
    reached = [cut.reach(jnp.array(i), rules) for i in range(4)]
    assert sum(int(end) - int(first) for first, end in reached) == blocks


@pytest.mark.parametrize("name", ["sequence", "all"])
@pytest.mark.parametrize("path", ["reference", "ragged"])
def test_meshes(name, path):
    """With queries split along the length, and heads split: the same values and gradients."""
    q, k, v = operands(8)
    segments = np.tile(SEGMENTS, (4, 1))
    mask = Mask(segments, segments, window=9)
    expected = gradients(PATHS[path], mask, 3.0, q, k, v)
    keys = ("batch", None, "kv_heads", "head_dim")

    def spread(inputs):
        q = mesh.reshard(inputs.q, *TRAIN.heads())
        k, v = mesh.reshard(inputs.k, *keys), mesh.reshard(inputs.v, *keys)
        out = PATHS[path](inputs._replace(q=q, k=k, v=v))
        return mesh.reshard(out, None, None, None, None)

    with jax.set_mesh(mesh.make_mesh(MESHES[name])):
        assert_close(gradients(spread, mask, 3.0, q, k, v), expected, 1e-5)


def test_unrolled_on_a_mesh():
    """With heads and batch split; rows split along the length are not supported."""
    q, k, v = operands(8)
    segments = np.tile(SEGMENTS, (4, 1))
    mask = Mask(segments, segments, window=9)
    expected = gradients(attention.reference, mask, None, q, k, v)
    keys = ("batch", None, "kv_heads", "head_dim")

    def spread(inputs):
        q = mesh.reshard(inputs.q, *TRAIN.heads())
        k, v = mesh.reshard(inputs.k, *keys), mesh.reshard(inputs.v, *keys)
        out = PATHS["unrolled"](inputs._replace(q=q, k=k, v=v))
        return mesh.reshard(out, None, None, None, None)

    with jax.set_mesh(mesh.make_mesh(MESHES["tensor"])):
        assert attention_unrolled.supports(AttentionInputs(q, k, v, mask, TRAIN))
        assert_close(gradients(spread, mask, None, q, k, v), expected, 1e-5)
    with jax.set_mesh(mesh.make_mesh(MESHES["sequence"])):
        assert not attention_unrolled.supports(AttentionInputs(q, k, v, mask, TRAIN))


def test_splash(monkeypatch):
    """The TPU kernel, interpreted: segments, padding, grouped heads, window, soft-cap."""
    monkeypatch.setattr(attention_splash, "MAX_KEYS", 128)  # the gradient of queries in two parts
    q, k, v = operands(1, 256, 256, 2, 1, 8)
    segments = np.repeat([[1, 1, 1, 2, 2, 3, 3, 0]], 32, axis=1).astype(np.int32)
    mask = Mask(segments, segments, None, True, 40)
    assert attention_splash.supports(AttentionInputs(q, k, v, mask, TRAIN))
    expected = gradients(attention.reference, mask, 2.0, q, k, v)
    assert_close(gradients(attention_splash.splash, mask, 2.0, q, k, v), expected, 1e-5)


def test_cudnn_is_refused_where_it_cannot_be():
    q, k, v = operands()
    with pytest.raises(UserError, match="cudnn"):
        attention.attend(AttentionInputs(q, k, v, Mask(), TRAIN), "cudnn")


def test_what_cudnn_supports():
    q, k, _ = (x.astype(jnp.bfloat16) for x in operands(k=8))

    def supports(q, k, mask, softcap):
        return attention_cudnn.supports(AttentionInputs(q, k, k, mask, TRAIN, softcap))

    assert supports(q, k, mask_of(True, 5, True), None)
    assert not supports(q, k, Mask(), 1.0), "no soft-cap"
    assert supports(q, k, mask_of(False, 5, False), None), "a window both ways is part of its mask"
    assert not supports(q[:, 1:], k, Mask(causal=False), None), "even lengths only"
    assert not supports(q, k[:, 1:], Mask(causal=False), None), "even lengths only"
    assert not supports(q, k, Mask(index=np.zeros((B, T), np.int32)), None), "no indices"
    assert not supports(q.astype(jnp.float32), k, Mask(), None), "half precision only"
    long = jax.ShapeDtypeStruct((4, 2**16, 1, 64), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((4, 2**16), jnp.int32)
    assert not supports(long, long, Mask(segments, segments), None), "too large a mask"
    assert not supports(long, long, Mask(causal=False, window=5), None), "too large a mask"
    assert supports(long, long, Mask(window=5), None), "no mask is needed"


def test_every_backend_finds_a_path():
    """Every backend computes attention, however short the rows are."""
    q, k, v = operands(t=1, s=3)
    mask = Mask(index=np.full((B, 1), 2, np.int32))
    for backend in ("auto", "reference", "blocked", "splash"):
        out = attention.attend(AttentionInputs(q, k, v, mask, DECODE), backend)
        assert_close(out, textbook(q, k, v, mask, None), 2e-6)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8192, 8192, 128, None), (1024, 1024, 512, 1024, 2048, 512)),
        ((8192, 8192, 256, None), (1024, 1024, 512, 1024, 2048, 512)),
        ((2048, 131072, 256, None), (1024, 1024, 512, 1024, 2048, 512)),
        ((2048, 131072, 128, None), (1024, 1024, 512, 1024, 4096, 512)),
        ((8192, 8192, 128, 1024), (1024, 1024, 512, 1024, 512, 512)),
        ((384, 640, 64, None), (128, 128, 128, 128, 128, 128)),
    ],
)
def test_blocks_of_splash(shape, expected):
    """Powers of two that divide the lengths; large in the backward pass, unless VMEM or a window
    limits them."""
    sizes = attention_splash.block_sizes(*shape)
    found = (
        sizes.block_q,
        sizes.block_kv,
        sizes.block_kv_compute,
        sizes.block_q_dkv,
        sizes.block_kv_dkv,
        sizes.block_kv_dkv_compute,
    )
    assert found == expected
    assert sizes.use_fused_bwd_kernel
