"""Classification: losses against Optax and by hand, class weights, sums over examples."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_tables
from llmjax.errors import UserError
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.labels import MAX_CHARACTERS as LONGEST
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.packing import shape_of
from llmjax.tasks.predict import compute_outputs, total_loss
from task_models import LENGTH, arrays_of, opened, predicted, rows_of, trained

ROWS = rows_of(
    {"text": "good", "label": "yes"},
    {"text": "very good", "label": "yes"},
    {"text": "bad", "label": "no"},
    {"text": "so good", "label": "yes"},
    {"text": "eh", "label": "maybe"},
    {"text": "fine", "label": "yes"},
)
LABELS = ("maybe", "no", "yes")
TRUTH = np.array([2, 2, 1, 2, 0, 2])
TOPICS = rows_of(
    {"text": "a b", "labels": "x, y"},
    {"text": "a", "labels": ["x"]},
    {"text": "none", "labels": []},
    {"text": "all", "labels": ["x", "y", "z"]},
)
TARGETS = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], np.float32)


def begun(config, rows):
    """(task, network, params with non-trivial heads)."""
    task, network = opened(config, rows)
    params = jax.jit(network.init)(jax.random.key(1))
    params["heads"] = jax.tree.map(lambda x: 20 * x + 0.1, params["heads"])
    return task, network, params


def losses(task, network, params, examples):
    return task.loss(network.model, params, arrays_of(examples, shape(examples)), None)


def shape(examples, length=LENGTH):
    return shape_of(examples, length, encodes=False)


def logits_of(task, network, params, rows):
    """Logits of each row, up to a constant."""
    predictions = predicted(task, network, params, rows)
    return np.log([list(prediction["probabilities"].values()) for prediction in predictions])


def test_labels_are_counted_in_order():
    task, _ = opened(ClassificationTask(), ROWS)
    assert (task.metadata.labels, task.metadata.counts) == (LABELS, (1, 1, 4))
    numbers = rows_of(*({"text": "a", "label": label} for label in (10, 9, 9, 10, -1)))
    assert opened(ClassificationTask(), numbers)[0].metadata.labels == ("-1", "9", "10")


def test_balanced_classes_weigh_alike_by_hand():
    config = ClassificationTask(class_weights="balanced")
    task, network, params = begun(config, ROWS)
    examples = task.examples(ROWS)
    # 6 examples of 3 labels: 6 / (3 x 4) for each of the four, 6 / (3 x 1) for the others.
    assert [example.weight for example in examples] == [0.5, 0.5, 2, 0.5, 2, 0.5]
    assert [int(example.target[0]) for example in examples] == TRUTH.tolist()
    loss = losses(task, network, params, examples)
    logs = logits_of(task, network, params, ROWS)
    weights = np.array([0.5, 0.5, 2, 0.5, 2, 0.5])
    nats = -logs[np.arange(6), TRUTH]
    assert float(loss.objective) == pytest.approx((weights * nats).sum(), rel=1e-4)
    assert float(loss.weight) == weights.sum() == 6
    right = logs.argmax(-1) == TRUTH
    assert float(loss.sums["accuracy"].total) == pytest.approx((weights * right).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothing_is_that_of_optax(smoothing):
    config = ClassificationTask(label_smoothing=smoothing)
    task, network, params = begun(config, ROWS)
    logits = logits_of(task, network, params, ROWS)
    targets = optax.smooth_labels(jax.nn.one_hot(TRUTH, 3), smoothing)
    expected = optax.softmax_cross_entropy(jnp.asarray(logits), targets)
    plain = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), TRUTH)
    loss = losses(task, network, params, task.examples(ROWS))
    assert float(loss.objective) == pytest.approx(float(expected.sum()), rel=1e-4)
    assert float(loss.sums["loss"].total) == pytest.approx(float(plain.sum()), rel=1e-4)
    assert float(loss.weight) == 6
    assert (abs(float(loss.objective - loss.sums["loss"].total)) > 0.01) == bool(smoothing)


def test_any_number_of_labels_costs_the_mean_of_their_sigmoids_by_hand():
    task, network, params = begun(MultiLabelTask(), TOPICS)
    assert task.metadata.labels == ("x", "y", "z")
    examples = task.examples(TOPICS)
    np.testing.assert_array_equal([example.target for example in examples], TARGETS)
    predictions = predicted(task, network, params, TOPICS)
    shares = np.array([list(prediction["probabilities"].values()) for prediction in predictions])
    nats = -(TARGETS * np.log(shares) + (1 - TARGETS) * np.log(1 - shares)).mean(1)
    loss = losses(task, network, params, examples)
    assert (
        float(loss.objective)
        == float(loss.sums["loss"].total)
        == pytest.approx(nats.sum(), rel=1e-4)
    )
    assert float(loss.weight) == 4
    right = ((shares > 0.5) == (TARGETS > 0.5)).mean(1)
    assert float(loss.sums["accuracy"].total) == pytest.approx(right.sum(), rel=1e-6)
    assert [prediction["labels"] for prediction in predictions] == [
        [label for label, share in zip("xyz", row, strict=True) if share > 0.5] for row in shares
    ]


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (ClassificationTask(class_weights="balanced"), ROWS),
        (ClassificationTask(label_smoothing=0.1), ROWS),
        (MultiLabelTask(), TOPICS),
    ],
)
def test_neighbours_in_a_row_and_rows_without_labels_add_nothing(config, rows):
    task, network, params = begun(config, rows)
    examples = task.examples(rows)
    blank = task.examples(rows_of({"text": "what is this?"}))
    assert blank[0].weight == 0
    packed = total_loss(task, network.model, params, examples, 2, None)
    alone = [total_loss(task, network.model, params, [example], 1, None) for example in examples]
    more = [*examples, *blank]
    with_blank = total_loss(task, network.model, params, more, 2, None)
    for sums in (with_blank, type(packed)(*map(sum, zip(*alone, strict=True)))):
        assert sums == pytest.approx(packed, rel=1e-4)
    result = compute_outputs(task, network.model, params, examples, 2, None)
    assert len(result) == len(rows)


@pytest.mark.parametrize(
    ("config", "rows"), [(ClassificationTask(), ROWS), (MultiLabelTask(), TOPICS)]
)
def test_it_learns(config, rows):
    task, network = opened(config, rows)
    params = trained(task, network, task.examples(rows), 60)
    predictions = predicted(task, network, params, rows)
    figures = task.metrics(rows, predictions)
    assert figures["f1_macro"].value == 1


def test_errors_are_reported():
    with pytest.raises(UserError, match="needs two labels or more"):
        opened(ClassificationTask(), ROWS[:2])
    with pytest.raises(UserError, match="table line 1, column label: None is not a label"):
        opened(ClassificationTask(), rows_of({"text": "a", "label": None}))
    task, _ = opened(ClassificationTask(), ROWS)
    with pytest.raises(UserError, match="label 'new': is not in the training set"):
        task.examples(rows_of({"text": "a", "label": "new"}))


ODD = [
    "--1",
    "-",
    "01",
    "1",
    "-1",
    "1.0",
    "True",
    "²",
    "9" * LONGEST,
    "a b",
    "none",
    "NaN",
    "é,",
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_labels_are_those_of_the_table(tmp_path, ending):
    values = [{"text": f"t{n}", "label": label} for n, label in enumerate(ODD)]
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(values), path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in values), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            form = {"csv": "excel", "tsv": "excel-tab"}[ending]
            quoting = csv.QUOTE_NONE if ending == "tsv" else csv.QUOTE_MINIMAL
            writer = csv.DictWriter(file, ["text", "label"], dialect=form, quoting=quoting)
            writer.writeheader()
            writer.writerows(values)
    rows = read_tables([FileTable((str(path),))])
    facts = TaskMetadata.from_dict(
        json.loads(json.dumps(ClassificationTask().find_metadata(rows).to_dict()))
    )
    assert sorted(facts.labels) == sorted(ODD)
    assert set(facts.counts) == {1}


def test_a_label_is_predicted_as_it_is_written():
    odd = ["--1", "-", "01", "1"]
    rows = rows_of(
        *({"text": text, "label": label} for text, label in zip("abcd", odd, strict=True))
    )
    task, network = opened(ClassificationTask(), rows)
    params = trained(task, network, task.examples(rows), 60)
    predictions = predicted(task, network, params, rows)
    assert [prediction["label"] for prediction in predictions] == odd
    assert task.metrics(rows, predictions)["accuracy"].value == 1


@pytest.mark.parametrize("labels", [("1", "01"), ("01", "1")])
def test_the_order_of_labels_is_not_that_of_rows(labels):
    rows = rows_of(*({"text": "a", "label": label} for label in (*labels, "--1")))
    assert ClassificationTask().find_metadata(rows).labels == ("--1", "01", "1")
    assert ClassificationTask().find_metadata(rows[:2]).labels == ("01", "1")


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("", "'' is not a label"),
        (" \t", "is not a label; give text or an integer"),
        (None, "None is not a label"),
        (1.0, "1.0 is not a label"),
        ({"a": "b" * 99}, "... is not a label"),
        ("x" * 1001, "a label of 1,001 characters exceeds the limit of 1,000"),
    ],
)
def test_what_is_no_label_is_named(label, reason):
    rows = rows_of({"text": "a", "label": "yes"}, {"text": "b", "label": label})
    for config, column in ((ClassificationTask(), "label"), (MultiLabelTask(), "labels")):
        given = rows
        if column == "labels":
            given = rows_of(*({"text": "a", "labels": [row.values["label"]]} for row in rows))
        with pytest.raises(UserError) as caught:
            config.find_metadata(given)
        assert str(caught.value).startswith(f"table line 2, column {column}: ")
        assert reason in str(caught.value)
        assert len(str(caught.value)) < 200
