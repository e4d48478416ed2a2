"""The gated delta rule in chunks equals its definition, a loop over tokens in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.model.delta_rule import DeltaInputs, delta_rule, delta_step


def drawn(length: int, resets: float, seed: int, *, alike: bool = False) -> tuple:
    """Random inputs and state of 2 rows and 2 x 3 heads, float64, and a direction for gradients."""
    draw = np.random.default_rng(seed)
    q, k = draw.standard_normal((2, 2, length, 2, 4))
    if alike:
        k[:] = k[:, :1]
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = draw.standard_normal((2, length, 2, 3, 5))
    log_decay = -draw.exponential(0.1 if alike else 1.0, (2, length, 2, 3))
    beta = draw.uniform(size=(2, length, 2, 3))
    beta[1, length - length // 3 :] = log_decay[1, length - length // 3 :] = 0  # padding
    reset = draw.uniform(size=(2, length)) < resets if resets else None
    inputs = DeltaInputs(*map(jnp.asarray, (q, k, v, log_decay, beta)), reset)
    return inputs, jnp.asarray(draw.standard_normal((2, 2, 3, 4, 5)))


def naive(inputs: DeltaInputs, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The definition: one token after another."""
    outs = []
    for t in range(inputs.q.shape[1]):
        q, k, v, decay, beta = (x[:, t] for x in inputs[:5])
        if inputs.reset is not None:
            state = state * ~inputs.reset[:, t, None, None, None, None]
        state = state * jnp.exp(decay)[..., None, None]
        error = v - jnp.einsum("bnrkv,bnk->bnrv", state, k)
        state = state + jnp.einsum("bnk,bnr,bnrv->bnrkv", k, beta, error)
        outs.append(jnp.einsum("bnrkv,bnk->bnrv", state, q))
    return jnp.stack(outs, 1), state


def with_gradient(rule, inputs: DeltaInputs, state: jax.Array) -> tuple:
    """Results, and the gradient of a sum of them with random weights."""
    reset = inputs.reset

    def loss(arrays, state):
        results = rule(DeltaInputs(*arrays, reset), state)
        draw = np.random.default_rng(9)
        return sum((x * draw.standard_normal(x.shape)).sum() for x in results), results

    gradients, results = jax.grad(loss, (0, 1), has_aux=True)(inputs[:5], state)
    return results, gradients


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([2, 7, 64, 150]),
    st.sampled_from([0.0, 0.02, 0.3]),
    st.integers(0, 9),
    st.booleans(),
)
def test_chunks_equal_the_definition(length, resets, seed, alike):
    with jax.enable_x64(True):
        inputs, state = drawn(length, resets, seed, alike=alike)
        computed, expected = (
            jax.jit(partial(with_gradient, rule))(inputs, state) for rule in (delta_rule, scanned)
        )
        for a, b in zip(*map(jax.tree.leaves, (computed, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def scanned(inputs: DeltaInputs, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `naive`, which compiles a token once."""

    def run(state, token):
        out, state = naive(DeltaInputs(*(x if x is None else x[:, None] for x in token)), state)
        return state, out[:, 0]

    state, out = jax.lax.scan(run, state, jax.tree.map(lambda x: x.swapaxes(0, 1), inputs))
    return out.swapaxes(0, 1), state


@pytest.mark.parametrize("resets", [0.0, 0.5])
def test_a_step_equals_the_definition(resets):
    with jax.enable_x64(True):
        inputs, state = drawn(1, resets, 3)
        for a, b in zip(delta_step(inputs, state), naive(inputs, state), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_keys_that_are_alike_lose_no_digits_in_float32():
    """Where a power series of the triangular system would have entries of 10^18."""
    with jax.enable_x64(True):
        inputs, state = drawn(128, 0.0, 5, alike=True)
        inputs = inputs._replace(beta=jnp.ones_like(inputs.beta))
        expected, _ = jax.jit(scanned)(inputs, state)
        narrow = DeltaInputs(*(x.astype(jnp.float32) for x in inputs[:5]))
        out, _ = jax.jit(delta_rule)(narrow, state.astype(jnp.float32))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-5)
