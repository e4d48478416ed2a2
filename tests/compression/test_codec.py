"""Integer frequencies: sum, minimum, remainder; intervals located by symbol and by target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.compression.codec import BLOCK, TOTAL, frequencies, locate

COUNT = jax.jit(frequencies)
LOCATE = jax.jit(locate)


def drawn(seed, rows=3, symbols=2 * BLOCK + 44, spread=4.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (rows, symbols)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(generator.random(symbols) < 0.9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**20), st.sampled_from([0.0, 0.1, 4.0, 60.0, 3000.0]))
def test_frequencies_sum_to_the_total_and_are_positive_if_allowed(seed, spread):
    logits, allowed = drawn(seed, spread=spread)
    counts, mask = np.asarray(COUNT(logits, allowed)).astype(np.int64), np.asarray(allowed)
    assert (counts.sum(1) == TOTAL).all()
    assert (counts[:, mask] >= 1).all()
    assert (counts[:, ~mask] == 0).all()


@pytest.mark.parametrize("symbols", [1 << 15, 1 << 17, 1 << 18])
def test_frequencies_sum_to_the_total_for_large_vocabularies(symbols):
    """Half of the scores are equally low, so that rounding errors add up in one direction."""
    allowed = jnp.ones(symbols, bool)
    for low in (-5.0, -5.5, -6.0, -7.0, -17.3, -80.0):
        rows = np.full((4, symbols), low, np.float32)
        rows[0, : symbols // 2] = rows[1, symbols // 2 :] = rows[2, ::2] = rows[3, -1] = 0
        counts = np.asarray(COUNT(jnp.asarray(rows), allowed)).astype(np.int64)
        assert (counts.sum(1) == TOTAL).all(), low
        assert counts.min() >= 1
        assert counts.max() <= TOTAL


def test_frequencies_follow_the_softmax():
    logits, allowed = drawn(1)
    counts = np.asarray(COUNT(logits, allowed)).astype(np.float64)
    exact = np.where(allowed, np.asarray(logits, np.float64), -np.inf)
    p = np.exp(exact - exact.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    assert np.abs(counts / TOTAL - p).max() < 2e-3
    best = p.argmax(1)
    rows = np.arange(len(p))
    assert (counts[rows, best] / TOTAL >= p[rows, best] - 1e-5).all(), "it gets the remainder"
    mask = np.asarray(allowed)
    ratio = np.where(mask, p, 1.0) / np.where(mask, counts / TOTAL, 1.0)
    lost = (p * np.log2(ratio)).sum(1)
    assert (lost < 2e-3).all(), "bits per symbol"


def test_a_broken_model_still_codes():
    logits, allowed = drawn(2)
    broken = logits.at[0, 7].set(jnp.nan).at[1].set(jnp.inf).at[2].set(-jnp.inf)
    counts = np.asarray(COUNT(broken, allowed)).astype(np.int64)
    assert (counts.sum(1) == TOTAL).all()
    assert (counts[:, np.asarray(allowed)] >= 1).all()


@pytest.mark.parametrize("symbols", [5, BLOCK, 2 * BLOCK + 44])
def test_intervals_are_located_by_symbol_and_by_target(symbols):
    logits, allowed = drawn(3, rows=4, symbols=symbols)
    counts = COUNT(logits, allowed)
    table = np.asarray(counts).astype(np.int64)
    starts = np.cumsum(table, axis=1) - table
    rows, nothing = np.arange(4), np.zeros(4, np.uint32)
    generator = np.random.default_rng(0)
    for _ in range(40):
        known = generator.choice(np.flatnonzero(np.asarray(allowed)), 4).astype(np.int32)
        interval = LOCATE(counts, known, nothing, np.bool_(False))
        assert (np.asarray(interval.symbol) == known).all()
        assert (np.asarray(interval.start) == starts[rows, known]).all()
        assert (np.asarray(interval.freq) == table[rows, known]).all()
        for target in (interval.start, interval.start + interval.freq - 1):
            located = LOCATE(counts, nothing.astype(np.int32), target, np.bool_(True))
            for actual, expected in zip(located, interval, strict=True):
                assert (np.asarray(actual) == np.asarray(expected)).all()
