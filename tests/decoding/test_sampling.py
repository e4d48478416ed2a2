"""Filters against a float64 NumPy reference, ties and extremes, and sampled frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.decoding import sampling
from llmjax.decoding.sampling import Sampling

VOCAB = 37
top_k, top_p, min_p = (jax.jit(f) for f in (sampling.top_k, sampling.top_p, sampling.min_p))


def softmax(logits):
    """float64 probabilities over the last axis."""
    shifted = np.asarray(logits, np.float64)
    weights = np.exp(shifted - shifted.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reference_top_k(logits, k):
    least = np.sort(logits, axis=-1)[..., ::-1][..., min(k, logits.shape[-1]) - 1]
    return logits >= least[..., None]


def reference_top_p(logits, p):
    """Take the most likely tokens until their sum is p, and those tied with the last."""
    kept = np.zeros(logits.shape, bool)
    for row, probabilities in enumerate(softmax(logits)):
        mass = 0.0
        for token in np.argsort(-probabilities, kind="stable"):
            if mass >= p:
                break
            kept[row, token] = True
            mass += probabilities[token]
        kept[row] = logits[row] >= logits[row][kept[row]].min()
    return kept


def reference_min_p(logits, p):
    probabilities = softmax(logits)
    return probabilities >= p * probabilities.max(-1, keepdims=True)


def kept(filtered, logits):
    """Which tokens a filter kept, with unchanged logits."""
    filtered, logits = np.asarray(filtered), np.asarray(logits)
    stays = filtered > -np.inf
    np.testing.assert_array_equal(filtered[stays], logits[stays])
    return stays


@pytest.fixture(params=["spread", "ties", "removed", "huge"])
def logits(request):
    rng = np.random.default_rng(3)
    values = rng.normal(0, 3, (8, VOCAB))
    if request.param == "ties":
        values = np.round(values / 2) * 2
    if request.param == "removed":
        values[:, ::3] = -np.inf
    if request.param == "huge":
        values *= 1e37
    return values.astype(np.float32)


@pytest.mark.parametrize("k", [1, 2, 5, VOCAB - 1, VOCAB, VOCAB + 10])
def test_top_k_keeps_what_a_sort_would(logits, k):
    expected = reference_top_k(logits, k) & (logits > -np.inf)
    np.testing.assert_array_equal(kept(top_k(logits, k), logits), expected)


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.35, 0.77, 0.953])
def test_top_p_keeps_what_a_sort_would(logits, p):
    np.testing.assert_array_equal(kept(top_p(logits, p), logits), reference_top_p(logits, p))


def test_top_p_of_one_keeps_all_and_of_zero_the_likeliest(logits):
    np.testing.assert_array_equal(top_p(logits, 1.0), logits)
    likeliest = logits == logits.max(-1, keepdims=True)
    np.testing.assert_array_equal(kept(top_p(logits, 0.0), logits), likeliest)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5])
def test_min_p_compares_with_the_likeliest(logits, p):
    np.testing.assert_array_equal(kept(min_p(logits, p), logits), reference_min_p(logits, p))


def test_min_p_of_zero_keeps_all_and_of_one_the_likeliest(logits):
    np.testing.assert_array_equal(min_p(logits, 0.0), logits)
    likeliest = logits == logits.max(-1, keepdims=True)
    np.testing.assert_array_equal(kept(min_p(logits, 1.0), logits), likeliest)


def test_all_tokens_alike_all_stay():
    flat = np.zeros((2, VOCAB), np.float32)
    flat[1, ::2] = -0.0
    for filtered in (top_k(flat, 1), top_p(flat, 0.1), min_p(flat, 1)):
        assert np.isfinite(filtered).all()


def test_filters_do_not_care_for_the_order_of_the_vocabulary(logits):
    order = np.random.default_rng(0).permutation(VOCAB)
    for item in (lambda x: top_k(x, 4), lambda x: top_p(x, 0.6)):
        np.testing.assert_array_equal(np.asarray(item(logits))[:, order], item(logits[:, order]))


def test_repetition_penalty_lowers_seen_tokens_of_either_sign():
    logits = np.array([[2.0, -2.0, 0.5, 0.0]], np.float32)
    seen = np.array([[True, True, False, True]])
    lowered = sampling.repetition_penalty(logits, seen, 2.0)
    np.testing.assert_array_equal(lowered, [[1.0, -4.0, 0.5, 0.0]])


def test_extreme_temperatures_stay_finite_where_they_should():
    logits = jnp.array([[3e38, -3e38, 2.9e38]], jnp.float32)
    cold = jax.nn.softmax(sampling.scale_temperature(logits, 1e-30))
    np.testing.assert_array_equal(cold, [[1.0, 0.0, 0.0]])
    hot = jax.nn.softmax(sampling.scale_temperature(jnp.array([[5.0, -5.0]]), 1e30))
    np.testing.assert_allclose(hot, [[0.5, 0.5]])


LOGITS = np.array([[1.2, -0.3, 0.9, 0.1, -2.0, 0.4]], np.float32)
SEEN = np.array([[True, False, False, True, False, True]])


def reference_distribution(temperature, k=None, p=None, minimum=None, penalty=1.0):
    """A float64 reference: penalty, temperature, top-k, top-p, min-p."""
    values = LOGITS.astype(np.float64)
    lowered = np.where(values > 0, values / penalty, values * penalty)
    values = np.where(SEEN, lowered, values) / temperature
    for rule, amount in (
        (reference_top_k, k),
        (reference_top_p, p),
        (reference_min_p, minimum),
    ):
        if amount is not None:
            values = np.where(rule(values, amount), values, -np.inf)
    return softmax(values)[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"temperature": 1.0, "k": 3},
        {"temperature": 1.0, "p": 0.8},
        {"temperature": 1.0, "minimum": 0.3},
        {"temperature": 1.0, "penalty": 1.7},
        {"temperature": 1.4, "k": 5, "p": 0.9, "minimum": 0.45, "penalty": 1.3},
    ],
)
def test_draws_follow_the_reference_distribution(fields):
    draws = 20_000
    names = {
        "temperature": "temperature",
        "k": "top_k",
        "p": "top_p",
        "minimum": "min_p",
        "penalty": "repetition_penalty",
    }
    how = Sampling(**{names[name]: jnp.asarray(value) for name, value in fields.items()})
    keys = jax.random.split(jax.random.key(11), draws)
    logits, seen = np.repeat(LOGITS, draws, 0), np.repeat(SEEN, draws, 0)
    tokens = jax.jit(sampling.choose)(logits, how, keys, seen)
    expected = reference_distribution(**fields)
    counts = np.bincount(tokens, minlength=LOGITS.shape[1])
    assert (counts[expected == 0] == 0).all()
    # Six standard deviations of a binomial count: about one false alarm in 10^8.
    tolerance = 6 * np.sqrt(expected * (1 - expected) * draws)
    assert (np.abs(counts - expected * draws) <= tolerance + 1e-6).all()


def test_greedy_takes_the_first_of_the_likeliest():
    logits = jnp.array([[0.0, 2.0, 2.0], [5.0, 1.0, 4.0]])
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(sampling.choose(logits, Sampling(), keys), [1, 0])


def test_a_row_depends_on_its_own_key_only():
    keys = jax.random.split(jax.random.key(5), 4)
    logits = jax.random.normal(jax.random.key(6), (4, VOCAB))
    how = Sampling(temperature=jnp.float32(1.0))
    together = sampling.choose(logits, how, keys)
    alone = [sampling.choose(logits[i : i + 1], how, keys[i : i + 1])[0] for i in range(4)]
    np.testing.assert_array_equal(together, alone)
