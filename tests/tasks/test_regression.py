"""Regression: mean squared error by hand, the initial bias, sums over examples."""

import jax
import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.parallel.mesh import use_mesh
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import total_loss
from llmjax.tasks.regression import RegressionTask
from task_models import LENGTH, arrays_of, eight_devices, opened, predicted, rows_of, trained

ROWS = rows_of(
    {"text": "one", "pair": "eins", "score": 1},
    {"text": "two", "pair": "zwei", "score": "2.5"},
    {"text": "three three three", "pair": "drei", "score": -4.0},
)
TRUTH = np.array([1, 2.5, -4])
CONFIG = RegressionTask(pair="pair")


@pytest.fixture(scope="module")
def started():
    task, network = opened(CONFIG, ROWS)
    params = jax.jit(network.init)(jax.random.key(1))
    return task, network, params


def shape(examples):
    return shape_of(examples, LENGTH, encodes=False)


def values(task, network, params):
    return np.array([item["value"] for item in predicted(task, network, params, ROWS)])


def test_the_head_begins_at_the_mean(started):
    task, network, params = started
    assert task.metadata.mean == pytest.approx(TRUTH.mean())
    assert np.abs(values(task, network, params) - TRUTH.mean()).max() < 1


def test_the_loss_is_the_sum_of_squares_by_hand(started):
    task, network, params = started
    examples = task.examples(ROWS)
    assert [float(example.target[0]) for example in examples] == TRUTH.tolist()
    errors = values(task, network, params) - TRUTH
    arrays = arrays_of(examples, shape(examples))
    loss = task.loss(network.model, params, arrays, None)
    assert (
        float(loss.objective)
        == float(loss.sums["loss"].total)
        == pytest.approx((errors**2).sum(), rel=1e-4)
    )
    assert float(loss.weight) == 3
    assert loss.sums.keys() == {"loss"}
    result = task.metrics(ROWS, predicted(task, network, params, ROWS))
    assert result["mean_squared_error"].value == pytest.approx((errors**2).mean(), rel=1e-4)


def test_examples_add_up_by_their_weights(started):
    task, network, params = started
    examples = [
        example._replace(weight=weight)
        for example, weight in zip(task.examples(ROWS), (1.0, 3.0, 0.0), strict=True)
    ]
    squares = (values(task, network, params) - TRUTH) ** 2
    expected = (squares[0] + 3 * squares[1], 4, 0)
    for rows in (1, 2):
        sums = total_loss(task, network.model, params, examples, rows, None)
        assert sums == pytest.approx(expected, rel=1e-4)
    mesh = eight_devices()
    with use_mesh(mesh):
        shared = jax.jit(network.init)(jax.random.key(1))
    sums = total_loss(task, network.model, shared, examples, 8, mesh)
    assert sums == pytest.approx(expected, rel=1e-4)


def test_rows_without_numbers_have_no_weight(started):
    task, _, _ = started
    (example,) = task.examples(rows_of({"text": "a", "pair": "b"}))
    assert example.weight == 0


def test_it_learns():
    task, network = opened(CONFIG, ROWS)
    params = trained(task, network, task.examples(ROWS), 200, 5e-3)
    np.testing.assert_allclose(values(task, network, params), TRUTH, atol=0.3)


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "not a number"), ("many", "is 'many', not a number"), (float("inf"), "is inf")],
)
def test_a_bad_number_is_reported_with_its_line(value, message):
    with pytest.raises(UserError, match=f"table line 1, column '?score'?:? .*{message}"):
        opened(CONFIG, rows_of({"text": "a", "pair": "b", "score": value}))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("--1", "is '--1', not a number; fix the row"),
        ("1,5", "is '1,5', not a number; write numbers with a decimal point"),
        ("1_000", "is '1_000', not a number"),
        ("nan", "is nan, not a finite number"),
        ("-inf", "is -inf, not a finite number"),
        ("", "is empty"),
        (None, "is missing, not a number"),
        (True, "is a truth value, not a number"),
    ],
)
def test_what_is_no_number_is_named(value, reason):
    rows = rows_of({"text": "a", "score": " 1.5e0 "}, {"text": "b", "score": value})
    with pytest.raises(UserError, match="table line 2, column 'score'") as caught:
        opened(RegressionTask(), rows)
    assert reason in str(caught.value)
