"""Rotary positions as TPUs compute them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.model.rope import rotate, turned_by_product
from llmjax.parallel import mesh


@pytest.mark.parametrize("width", [16, 24], ids=["whole", "partial"])
def test_a_product_rotates_as_sums_of_halves_do(width):
    """In bfloat16, exactly, with its gradient; some heads have dimensions that do not rotate."""
    draw = np.random.default_rng(0)
    x, dy = (jnp.asarray(draw.normal(size=(2, 5, 3, width)), jnp.bfloat16) for _ in range(2))
    frequencies = (10_000.0 ** (-np.arange(8) / 8)).astype(np.float32)
    positions, factor = jnp.arange(10).reshape(2, 5), 1.5
    angle = positions[..., None, None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angle) * factor, jnp.cos(angle) * factor
    expected, pull_back = jax.vjp(lambda x: rotate(x, positions, frequencies, factor), x)
    found, pull_back_product = jax.vjp(lambda x: turned_by_product(x, sin, cos), x)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pull_back_product(dy)[0], pull_back(dy)[0])
    assert np.abs(np.asarray(expected - x, np.float32)[:, 1:]).max() > 0.1


def test_neighbours_that_form_pairs_rotate_alike_on_tpus(monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 2, 8)), jnp.bfloat16)
    positions, frequencies = jnp.arange(3)[None], np.float32([1.0, 0.1])
    turned = []
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(mesh, "platform", lambda platform=platform: platform)
        turned.append(rotate(x, positions, frequencies, interleaved=True))
        turned.append(rotate(x, positions, frequencies))
    np.testing.assert_array_equal(turned[:2], turned[2:])
    assert np.any(turned[0] != turned[1])
