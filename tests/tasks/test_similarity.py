"""Similarity: contrastive loss over the global batch."""

import jax
import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import place, use_mesh
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import compute_outputs, total_loss
from llmjax.tasks.similarity import SimilarityTask
from task_models import (
    ENCODER,
    LENGTH,
    arrays_of,
    eight_devices,
    opened,
    predicted,
    rows_of,
    trained,
)

SIZES = {"d_model": 32, "num_heads": 2, "d_ff": 64}
DECODER = ModelConfig(num_decoder_layers=1, **SIZES)
BOTH = ModelConfig(num_encoder_layers=1, num_decoder_layers=1, **SIZES)
WORDS = ["one", "two", "three", "four", "five", "six"]
ROWS = rows_of(*({"text": f"{word} apple", "pair": f"pear {word}"} for word in WORDS))
CONFIG = SimilarityTask()


@pytest.fixture(scope="module", params=[ENCODER, DECODER, BOTH], ids=["encoder", "decoder", "both"])
def started(request):
    task, network = opened(CONFIG, ROWS, model=request.param)
    return task, network, jax.jit(network.init)(jax.random.key(1))


def vectors(task, network, params, examples):
    result = compute_outputs(task, network.model, params, examples, 4, None)
    return (np.array([item[name] for item in result]) for name in ("first", "second"))


def test_vectors_do_not_depend_on_other_texts(started):
    task, network, params = started
    examples = task.examples(ROWS)
    together = list(vectors(task, network, params, examples))
    for number, example in enumerate(examples):
        for actual, expected in zip(
            vectors(task, network, params, [example]), together, strict=True
        ):
            np.testing.assert_allclose(actual[0], expected[number], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("both", [False, True])
def test_the_loss_is_over_the_global_batch(started, both):
    _, network, params = started
    task, _ = opened(SimilarityTask(both=both), ROWS, model=network.model.config)
    examples = task.examples(ROWS)
    first, second = vectors(task, network, params, examples)
    logits = 20 * first @ second.T

    def nats(logits):
        return (np.log(np.exp(logits).sum(1)) - logits.diagonal()).sum()

    expected = (nats(logits) + nats(logits.T)) / 2 if both else nats(logits)
    result = total_loss(task, network.model, params, examples, 8, None)
    assert result.weight == len(ROWS)
    assert result.nll == pytest.approx(expected, rel=1e-4)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.jit(network.init)(jax.random.key(1))
    sharded = total_loss(task, network.model, shared, examples, 8, mesh)
    assert sharded.nll == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("both", [False, True])
def test_equal_texts_are_no_negatives(both):
    """By hand: (a, p) and (a, q) share the text, (a, p) and (b, p) the partner, and the text of (q,
    c) is the partner of another."""
    task = SimilarityTask(both=both)
    rows = rows_of(
        {"text": "a", "pair": "p"},
        {"text": "a", "pair": "q"},
        {"text": "b", "pair": "p"},
        {"text": "q", "pair": "c"},
    )
    task, network = opened(task, rows)
    params = jax.jit(network.init)(jax.random.key(1))
    examples = task.examples(rows)
    first, second = vectors(task, network, params, examples)
    logits = 20 * first @ second.T
    negatives = {0: [3], 1: [2, 3], 2: [1, 3], 3: [0, 2]}  # of "q" not the pair (a, q)
    reverse = {0: [3], 1: [2], 2: [1, 3], 3: [0, 1, 2]}  # of the partner "q" not the text "q"

    def nats(logits, others):
        terms = [[row[own], *row[others[own]]] for own, row in enumerate(logits)]
        return sum(np.log(np.exp(term).sum()) - term[0] for term in terms)

    expected = nats(logits, negatives)
    if both:
        expected = (expected + nats(logits.T, reverse)) / 2
    assert total_loss(task, network.model, params, examples, 8, None).nll == pytest.approx(
        expected, rel=1e-4
    )
    if not both:
        measures = task.metrics(rows, predicted(task, network, params, rows, examples))
        assert measures["loss"].value == pytest.approx(expected / 4, rel=1e-4)


def test_a_repeated_pair_is_no_negative_and_counts_as_correct():
    rows = rows_of(*[{"text": "same", "pair": "pair"}] * 3)
    task, network = opened(CONFIG, rows)
    params = jax.jit(network.init)(jax.random.key(1))
    examples = task.examples(rows)
    assert total_loss(task, network.model, params, examples, 8, None).nll == pytest.approx(0)
    measures = task.metrics(rows, predicted(task, network, params, rows, examples))
    assert measures["accuracy"].value == 1
    assert measures["mean_reciprocal_rank"].value == 1


def test_derivatives_are_equal_on_many_devices(started):
    task, network, params = started
    examples = task.examples(ROWS)
    shape = shape_of(examples, LENGTH, encodes=network.model.config.is_encoder_decoder)
    arrays = arrays_of(examples, shape)
    arrays = {
        name: np.pad(x, [(0, 8 - len(x))] + [(0, 0)] * (x.ndim - 1)) for name, x in arrays.items()
    }

    def gradient(params, arrays):
        return jax.grad(lambda p: task.loss(network.model, p, arrays, None).objective)(params)

    alone = jax.jit(gradient)(params, arrays)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.jit(network.init)(jax.random.key(1))
        placed = {
            name: place(x, mesh, "batch", *[None] * (x.ndim - 1)) for name, x in arrays.items()
        }
        many = jax.jit(gradient)(shared, placed)
    for actual, expected in zip(jax.tree.leaves(alone), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_pairs_come_near_each_other():
    task, network = opened(CONFIG, ROWS)
    examples = task.examples(ROWS)
    params = trained(task, network, examples, 60)
    predictions = predicted(task, network, params, ROWS, examples)
    measures = task.metrics(ROWS, predictions)
    assert measures["accuracy"].value == 1
    assert measures["loss"].value < 0.1
    assert predictions[0]["similarity"] > 0.5


def test_long_texts_are_cut_to_half_a_row(caplog):
    rows = rows_of({"text": "x" * 90, "pair": "y" * 90})
    task, _ = opened(CONFIG, rows)
    (example,) = task.examples(rows)
    assert example.length <= LENGTH
    assert "texts are cut to 24 tokens" in caplog.text


def test_errors_are_reported():
    with pytest.raises(UserError, match="has no column 'pair'"):
        opened(CONFIG, rows_of({"text": "a"}))
