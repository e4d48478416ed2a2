"""Context parallelism: rings and exchanges compute what one device does."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import LLAMA, assert_close, batch, make, placed

from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.attention import all_to_all, attention, blocked, chunk_kernel, fused, ring, zigzag
from llmjax.model.attention.context import sharding_of
from llmjax.model.attention.mask import AttentionInputs, Mask, MaskArrays
from llmjax.model.compute import ComputeConfig
from llmjax.model.layers import DECODE, TRAIN, ActivationSharding
from llmjax.model.rope import rotate
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.optimizers.standard import AdamWConfig
from llmjax.parallel import mesh
from llmjax.parallel.collectives import collectives
from llmjax.parallel.mesh import MeshConfig
from llmjax.state import TrainState
from llmjax.step import make_train_step

B, T, H, N, K = 2, 32, 8, 4, 4
SEGMENTS = np.repeat([[1, 1, 2, 2, 2, 3, 3, 0], [1, 2, 2, 2, 2, 2, 4, 4]], T // 8, axis=1)
SEGMENTS = SEGMENTS.astype(np.int32)
RING = ActivationSharding(context="ring")
ZIGZAG = ActivationSharding(context="ring", zigzag=True)
EXCHANGE = ActivationSharding(context="all_to_all")
MESHES = {
    "sequence=2 x tensor=2 x fsdp=2": MeshConfig(fsdp=2, sequence=2, tensor=2),
    "sequence=4 x fsdp=2": MeshConfig(fsdp=2, sequence=4),
    "sequence=8": MeshConfig(fsdp=1, sequence=8),
}
CASES = {
    "causal": (Mask(), None),
    "causal, packed, soft-cap": (Mask(SEGMENTS, SEGMENTS), 1.5),
    "window, packed": (Mask(SEGMENTS, SEGMENTS, window=9), None),
    "window both ways": (Mask(causal=False, window=6), None),
    "not causal, packed": (Mask(SEGMENTS, SEGMENTS, causal=False), None),
}


def operands():
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((B, T, H, K), (B, T, N, K), (B, T, N, K), (B, T, H, K))
    return [2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def values_and_gradients(path, mask, softcap, sharding, q, k, v, weight):
    """The output, and the gradients of a weighted sum by q, k and v."""
    zigzagged = sharding.zigzag

    def total(*args):
        if zigzagged:
            args = [zigzag.enter(x) for x in args]
        spread = [mesh.reshard(x, "batch", sharding.length, "heads", None) for x in args]
        out = path(AttentionInputs(*spread, masked(), sharding, softcap))
        out = zigzag.leave(out) if zigzagged else out
        out = mesh.reshard(out, None, None, None, None)
        return (out * weight).sum(), out

    def masked():
        if mask.key_segments is None or not zigzagged:
            return mask
        segments = zigzag.enter(jnp.asarray(mask.key_segments))
        return Mask(segments, segments, None, mask.causal, mask.window)

    (_, out), gradients = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


PATHS = {
    "ring": (ring.ring, RING),
    "zigzag": (ring.ring, ZIGZAG),
    "all_to_all": (partial(all_to_all.all_to_all, attend=attention.attend), EXCHANGE),
}
RUNS = [
    ("ring", "sequence=4 x fsdp=2", "window both ways"),
    ("ring", "sequence=8", "not causal, packed"),
    ("zigzag", "sequence=2 x tensor=2 x fsdp=2", "causal, packed, soft-cap"),
    ("zigzag", "sequence=4 x fsdp=2", "window, packed"),
    ("zigzag", "sequence=8", "causal"),
    ("all_to_all", "sequence=2 x tensor=2 x fsdp=2", "window, packed"),
    ("all_to_all", "sequence=8", "causal, packed, soft-cap"),
]


@pytest.mark.parametrize(("path", "name", "case"), RUNS)
def test_as_the_reference(path, name, case):
    mask, softcap = CASES[case]
    function, sharding = PATHS[path]
    expected = jax.jit(partial(values_and_gradients, attention.reference, mask, softcap, TRAIN))(
        *operands()
    )
    with jax.set_mesh(mesh.make_mesh(MESHES[name])):
        results = jax.jit(partial(values_and_gradients, function, mask, softcap, sharding))(
            *operands()
        )
        assert_close(jax.device_get(results), expected, 1e-5)


def test_a_train_step():
    """With packed rows, a window in one layer, and all axes of the mesh: the loss and the updated
    parameters of one device; and no device gathers the keys of a row."""
    config = replace(LLAMA, window=5, global_layers=(1,))
    adamw = AdamWConfig(learning_rate=0.1)

    def step(compute):
        model, params = make(config, compute)
        params = jax.tree.map(jnp.copy, params)  # a step donates them
        params = placed(params, model) if mesh.has_mesh() else params
        optimizer = make_optimizer(adamw, 10, model.logical_axes())
        take = make_train_step(lambda p, b, _: token_loss(model, p, b), optimizer, seed=0)
        state = TrainState(jnp.int32(0), params, optimizer.init(params))
        compiled = take.lower(state, batch(config)).compile()
        state, metrics = compiled(state, batch(config))
        return (metrics.objective, metrics.gradient_norm, state.params), compiled.as_text()

    expected, _ = step(ComputeConfig())
    devices = mesh.make_mesh(MeshConfig(fsdp=2, sequence=2, tensor=2))
    with jax.set_mesh(devices):
        results, program = step(ComputeConfig(context_parallel="ring", remat="full"))
        assert_close(jax.device_get(results), expected, 1e-5)
    over_length = [x for x in collectives(program, devices) if "sequence" in x.axes]
    assert {"collective-permute"} <= {x.kind for x in over_length}
    keys = 4 * 8 * 4 * 4  # bytes of a device's 4 rows, 8 tokens long, with a head of 4 float32
    assert all(x.nbytes < keys for x in over_length if x.kind == "all-gather")


def test_a_ring_of_kernels():
    """The Pallas kernels, interpreted, in a ring; and without a mesh."""
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = [
        jax.random.normal(key, (1, 512, heads, 8))
        for key, heads in zip(keys, (2, 1, 1, 2), strict=True)
    ]
    segments = jnp.asarray(np.repeat([[1, 2, 2, 0]], 128, axis=1), jnp.int32)
    mask = Mask(segments, segments)
    expected = jax.jit(partial(values_and_gradients, attention.reference, mask, None, TRAIN))(
        *arrays
    )
    kernels = partial(ring.ring, kernel="pallas")
    run = jax.jit(partial(values_and_gradients, kernels, mask, None, DECODE))
    assert_close(run(*arrays), expected, 1e-5)
    with jax.set_mesh(mesh.make_mesh(MeshConfig(fsdp=1, sequence=2), jax.devices()[:2])):
        run = jax.jit(partial(values_and_gradients, kernels, mask, None, ZIGZAG))
        assert_close(jax.device_get(run(*arrays)), expected, 1e-5)


def test_chunk_kernels():
    """A window both ways, a soft-cap, queries that see nothing, and keys of other chunks in the
    log-sum-exp: the Pallas kernels, interpreted, are the blocks."""
    size, mask = 256, Mask(causal=False, window=150)
    rules = AttentionInputs(None, None, None, mask, TRAIN, 1.5).rules(128)
    draw = np.random.default_rng(0)
    q, k, v, dout = (
        jnp.asarray(draw.standard_normal((1, size, heads, 8)), jnp.float32)
        for heads in (4, 2, 2, 4)
    )
    segments = jnp.asarray(np.repeat([[1, 1, 2, 2, 2, 3, 3, 0]], size // 8, axis=1), jnp.int32)
    keys, distance = segments.at[:, :100].set(1), jnp.int32(128)
    arrays = MaskArrays(distance + jnp.arange(size)[None], segments, keys)
    expected = blocked.local_forward(q, k, v, arrays, rules)
    results = chunk_kernel.forward(q, k, v, distance, (segments, keys), rules)
    real = expected[1] > -1e30
    assert not real.all()
    assert_close(results[0], expected[0], 1e-5)
    assert_close(jnp.where(real, results[1], 0), jnp.where(real, expected[1], 0), 1e-5)
    saved = (expected[1] + 0.5, fused.delta(expected[0], dout))
    gradients = blocked.local_backward(q, k, v, arrays, saved, dout, rules, jnp.float32)
    found = chunk_kernel.backward(q, k, v, distance, (segments, keys), saved, dout, rules)
    assert_close(found, gradients, 1e-5)


def test_the_choice_of_a_method():
    """By bytes moved, and by what heads and positions allow; a wrong one is named."""
    grouped = replace(LLAMA, num_heads=32, num_kv_heads=8, d_model=128)
    bfloat16 = ComputeConfig(dtype="bfloat16", remat="full")

    def chosen(config, compute, **sizes):
        with jax.set_mesh(mesh.make_mesh(MeshConfig(**sizes))):
            return sharding_of(config, compute, 64, causal=True)

    assert chosen(grouped, bfloat16, sequence=2) == ZIGZAG, "192 bytes against 208"
    assert chosen(grouped, bfloat16, sequence=4) == EXCHANGE, "448 bytes against 312"
    named, whole = (replace(bfloat16, remat=remat) for remat in ("query,key,value", "none"))
    assert chosen(grouped, named, sequence=2) == ZIGZAG, "exchanged again, as with full"
    assert chosen(grouped, whole, sequence=2) == EXCHANGE, "192 bytes against 160"
    uneven = replace(grouped, num_heads=12, num_kv_heads=4)
    assert chosen(uneven, bfloat16, fsdp=1, sequence=8) == ZIGZAG, "8 does not divide 12"
    assert chosen(grouped, bfloat16, fsdp=8) == TRAIN
    relative = replace(grouped, positions="relative")
    assert chosen(relative, bfloat16, sequence=8) == TRAIN, "a bias needs all keys"
    with pytest.raises(UserError, match="relative positions"):
        chosen(relative, replace(bfloat16, context_parallel="ring"), sequence=8)
    exchange = replace(bfloat16, context_parallel="all_to_all")
    with pytest.raises(UserError, match=r"mesh.sequence=8 .* 12 query heads and 4 key heads"):
        chosen(uneven, exchange, fsdp=1, sequence=8)


def test_far_positions():
    """Rotations a million tokens into a text are as exact as float32 is near its start."""
    frequencies = (500_000.0 ** (-np.arange(8) / 8)).astype(np.float32)
    positions = np.array([[5, 1023, 1024, 131_071, 1_048_575]], np.int32)
    angle = positions[..., None, None] * frequencies.astype(np.float64)
    x = np.tile(np.repeat([1.0, 0.0], 8).astype(np.float32), (1, 5, 1, 1))
    exact = np.concatenate([np.cos(angle), np.sin(angle)], axis=-1)
    near, far = (np.asarray(rotate(x, positions, frequencies, far=far)) for far in (False, True))
    assert np.abs(far - exact).max() < 1e-3 < np.abs(near - exact).max()
    np.testing.assert_array_equal(far[:, :2], near[:, :2])
