"""Likelihoods of continuations equal the model's log-probabilities, however rows are packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.parallel.mesh import MeshConfig, make_mesh
from llmjax.scoring.continuations import (
    continuation_batches,
    score_batches,
    score_continuations,
)
from untrained import drawn, in_hand

BOTH = {"num_encoder_layers": 1, "num_decoder_layers": 1}
BOS = 257


@pytest.fixture(scope="module")
def lm():
    return in_hand()


def pairs(count=12, seed=0, longest=20):
    generator = np.random.default_rng(seed)

    def tokens(most):
        return generator.integers(0, 256, generator.integers(1, most)).tolist()

    return [(tokens(longest), tokens(longest // 2)) for _ in range(count)]


def expected(lm, prefix, tail):
    """Log-likelihood and greediness from the model's logits for this pair alone."""
    if lm.model.config.is_encoder_decoder:
        inputs, rest = [BOS, *tail[:-1]], {"encoder_tokens": jnp.asarray([prefix])}
    else:
        inputs, rest = [*prefix, *tail][:-1][-128:], {}
    logits = jax.jit(lm.model.apply)(lm.params, jnp.asarray([inputs]), **rest)[0]
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))[-len(tail) :]
    return log_probabilities[np.arange(len(tail)), tail].sum(), (
        log_probabilities.argmax(axis=1) == tail
    ).all()


def greedy_tail(lm, prefix, count=3):
    tokens = list(prefix)
    for _ in range(count):
        logits = jax.jit(lm.model.apply)(lm.params, jnp.asarray([tokens]))
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prefix) :]


@pytest.mark.parametrize("fields", [{}, BOTH])
def test_likelihoods_are_the_models(fields):
    lm = in_hand(**fields)
    asked = pairs()
    if not fields:
        asked[3] = (asked[3][0], greedy_tail(lm, asked[3][0]))
    result = list(score_continuations(lm.model, lm.params, asked, bos_id=BOS, batch_size=4))
    reference = [expected(lm, *pair) for pair in asked]
    np.testing.assert_allclose([f.total for f in result], [w[0] for w in reference], rtol=2e-5)
    assert [f.greedy for f in result] == [w[1] for w in reference]
    assert fields or result[3].greedy


def test_long_prefixes_lose_their_first_tokens(lm):
    asked = [([5] * 40 + [7] * 100, [1, 2, 3]), ([9], list(range(128)))]
    result = list(score_continuations(lm.model, lm.params, asked, bos_id=BOS))
    for pair, likelihood in zip(asked, result, strict=True):
        assert likelihood.total == pytest.approx(expected(lm, *pair)[0], rel=2e-5)


def test_choices_of_one_token_are_read_once(lm):
    asked = [(prefix, [token]) for prefix, _ in pairs(5) for token in (65, 66, 67, 68)]
    batches = list(continuation_batches(lm.model, asked, bos_id=BOS))
    assert sum(batch.arrays["segments"].max(axis=1).sum() for batch in batches) == 5
    assert sum(len(batch.slices) for batch in batches) == 20
    result = list(score_continuations(lm.model, lm.params, asked, bos_id=BOS))
    reference = [expected(lm, *pair)[0] for pair in asked]
    np.testing.assert_allclose([item.total for item in result], reference, rtol=2e-5)


def test_few_shapes_are_compiled_and_results_stream(lm):
    asked = pairs(200)
    batches = list(continuation_batches(lm.model, asked, bos_id=BOS, batch_size=4))
    shapes = [(batch.arrays["inputs"].shape, batch.positions.shape) for batch in batches]
    assert len(shapes) > 10
    assert set(shapes) == {((4, 32), (4, 16)), ((4, 32), (4, 32))}
    remaining = iter(batches)
    stream = score_batches(lm.model, lm.params, remaining, None)
    next(stream)
    assert len(list(remaining)) == len(batches) - 2
    stream = score_continuations(lm.model, lm.params, asked, bos_id=BOS, batch_size=4)
    assert sum(1 for _ in stream) == 200


@pytest.mark.parametrize("fields", [{}, BOTH])
@pytest.mark.parametrize("sizes", [{"fsdp": 4, "tensor": 2}, {"data": 2, "sequence": 2, "fsdp": 2}])
def test_on_a_mesh(fields, sizes):
    lm, mesh = in_hand(**fields), make_mesh(MeshConfig(**sizes))
    asked = pairs(6)
    alone = list(score_continuations(lm.model, lm.params, asked, bos_id=BOS))
    shared = drawn(lm.model, mesh=mesh)
    result = list(score_continuations(lm.model, shared, asked, bos_id=BOS, mesh=mesh))
    assert [item.greedy for item in result] == [item.greedy for item in alone]
    np.testing.assert_allclose([o.total for o in result], [o.total for o in alone], rtol=2e-5)


def test_errors_are_reported(lm):
    def refused(asked, model=lm.model, **fields):
        with pytest.raises(UserError) as caught:
            score_continuations(model, lm.params, asked, bos_id=BOS, **fields)
        return str(caught.value)

    assert "continuation 2: has no tokens" in refused([([1], [2]), ([1], [])])
    assert "has no tokens" in refused([([], [2])])
    assert "has 129 tokens" in refused([([1], [2] * 129)])
    assert "not positive" in refused([([1], [2])], batch_size=0)
    encoder = in_hand(num_encoder_layers=1, num_decoder_layers=0).model
    assert "has no decoder" in refused([([1], [2])], model=encoder)
    assert list(score_continuations(lm.model, lm.params, [], bos_id=BOS)) == []
