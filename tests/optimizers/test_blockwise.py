"""Optimizer state in int8: a quarter of the memory, and rounding that is right on average."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_optimizers import CONFIGS

from llmjax.optimizers.blockwise import BLOCK, block_size, encode
from llmjax.optimizers.moments import is_blockwise, narrow, widen
from llmjax.optimizers.optimizer import make_optimizer
from llmjax.parallel.mesh import MeshConfig, make_mesh, named_sharding

AXES = {"up": ("layers", "embed", "mlp"), "norm": ("layers", None)}
SHAPES = {"up": (2, 32, 192), "norm": (2, 32)}
EIGHT_BIT = [config for config in CONFIGS if config.EIGHT_BIT]


def spread(seed: int, shape=(32, 256)) -> jax.Array:
    """Numbers of very different sizes, as gradients are."""
    generator = np.random.default_rng(seed)
    return jnp.asarray(generator.standard_normal(shape) * np.exp(generator.standard_normal(shape)))


@pytest.mark.parametrize("is_square", [False, True], ids=["mean", "square"])
def test_rounding_is_right_on_average_and_within_a_step(is_square):
    x = jnp.square(spread(0)) if is_square else spread(0)
    x = x.at[0].set(0)
    codes = encode(x, is_square)
    assert (codes.values.dtype, codes.scale.shape) == (
        jnp.uint8 if is_square else jnp.int8,
        (32, 2),
    )
    scale = jnp.repeat(codes.scale, BLOCK, axis=-1)
    # Steps are finer near zero: of x / scale = c^p with c in steps of 1 / top.
    power, top = (4, 256) if is_square else (2, 127)
    shares = [jnp.abs(y) / jnp.where(scale > 0, scale, 1) for y in (x, codes.decode())]
    roots = [share ** (1 / power) * top for share in shares]
    tiny = roots[0] < 1 if is_square else False  # the smallest code is 1 there
    assert jnp.where(tiny, 0, jnp.abs(roots[0] - roots[1])).max() < 0.75
    assert (codes.decode()[0] == 0).all()
    if is_square:
        assert codes.decode()[1:].min() > 0  # Adam divides by its root
    else:
        assert (codes.decode() * x >= 0).all()
    rounded = jax.jit(jax.vmap(lambda key: encode(x, is_square, key).decode()))
    mean = rounded(jax.random.split(jax.random.key(0), 300)).mean(0)
    error = jnp.where(tiny, 0, jnp.abs(mean - x) / scale.max(initial=1e-9, where=scale > 0))
    assert error.max() < 4 * (power / top) / 300**0.5


@pytest.mark.parametrize("config", EIGHT_BIT, ids=lambda config: config.kind)
def test_moments_in_int8_take_a_quarter_and_descend_as_far(config):
    def descend(config, mesh=None):
        optimizer = make_optimizer(config, 100, AXES)

        @jax.jit
        def loop(params):
            def body(carry, step):
                params, state = carry
                return optimizer.apply(params, params, state, step), None

            return jax.lax.scan(body, (params, optimizer.init(params)), jnp.arange(8))[0]

        start = {name: np.asarray(spread(1, shape), np.float32) for name, shape in SHAPES.items()}
        if mesh is not None:
            start = jax.device_put(
                start, {name: named_sharding(mesh, *axes) for name, axes in AXES.items()}
            )
        params, state = loop(start)
        return start, params, state

    def size(state):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    start, wide, full = descend(config)
    eight = replace(config, moment_dtype="int8")
    _, small, quarter = descend(eight)
    assert size(quarter) == pytest.approx(
        size(full) * (1 + 4 / 96) / 4, rel=0.05
    )  # norms stay float32
    moved = np.linalg.norm(start["up"] - wide["up"])
    difference = np.linalg.norm(small["up"] - wide["up"])
    assert 0 < difference < 0.1 * moved
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2, data=2))
    with jax.set_mesh(mesh):
        _, sharded, state = descend(eight, mesh)
    np.testing.assert_allclose(sharded["up"], small["up"], atol=1e-5)
    blocks = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_blockwise) if is_blockwise(leaf)]
    assert blocks
    for leaf in blocks:
        assert leaf.scale.sharding.spec == leaf.values.sharding.spec == sharded["up"].sharding.spec


def test_blocks_do_not_cross_devices():
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=8))
    with jax.set_mesh(mesh):
        up = jax.device_put(spread(2), named_sharding(mesh, "embed", "mlp"))
        assert block_size(up) == 32
        codes = jax.jit(lambda x: encode(x, False))(up)
        program = jax.jit(lambda x: encode(x, False).decode()).lower(up).compile().as_text()
    assert codes.scale.sharding.spec == codes.values.sharding.spec == up.sharding.spec
    assert "all-" not in program
    assert block_size(spread(2)) == BLOCK


def test_small_arrays_and_counters_keep_their_type():
    state = {"count": jnp.int32(3), "few": jnp.ones((3, 100)), "prime": jnp.ones((4096, 7))}
    assert narrow(state, "int8") == state
    adam = optax.scale_by_adam().init({"nu": spread(3)})
    rounded = narrow(adam, "int8")
    assert (rounded.mu["nu"].is_square, rounded.nu["nu"].is_square) == (False, True)
    assert widen(rounded).nu["nu"].dtype == jnp.float32


def test_optimizers_without_such_state_are_refused():
    eight = [replace(config, moment_dtype="int8") for config in CONFIGS]
    problems = [problem for config in eight for problem in config.problems(100)]
    assert len(problems) == 1
    assert "adafactor has no state in int8" in problems[0]
    assert "adamw, lion, muon, sgd" in problems[0]
