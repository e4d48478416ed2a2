"""Classification metrics against scikit-learn, intervals against explicit resampling."""

import warnings

import numpy as np
import pytest
from sklearn import metrics

from llmjax.errors import UserError
from llmjax.metrics.labels import (
    classification,
    f1_macro,
    f1_micro,
    matthews,
    multilabel,
)

RANDOM = np.random.default_rng(0)
LABELS = ("bad", "fair", "good", "great")


def predictions(count, kinds, seed=0):
    random = np.random.default_rng(seed)
    truth = random.integers(0, kinds, count)
    scores = random.normal(size=(count, kinds)) + np.eye(kinds)[truth]
    return truth, np.exp(scores) / np.exp(scores).sum(1, keepdims=True)


def test_metrics_are_those_of_scikit_learn():
    truth, probabilities = predictions(200, 4)
    result, predicted = classification(LABELS, truth, probabilities), probabilities.argmax(1)
    assert result.headline().name == "accuracy"
    assert result.examples == 200
    expected = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "f1_macro": metrics.f1_score(truth, predicted, average="macro"),
        "f1_micro": metrics.f1_score(truth, predicted, average="micro"),
        "matthews": metrics.matthews_corrcoef(truth, predicted),
        "loss": metrics.log_loss(truth, probabilities),
    }
    for metric in result.metrics:
        assert metric.value == pytest.approx(expected[metric.name]), metric.name
        assert metric.low < metric.value < metric.high
    assert not result["loss"].larger_is_better
    confusion = result.tables["confusion"]
    assert confusion["labels"] == list(LABELS)
    assert confusion["counts"] == metrics.confusion_matrix(truth, predicted).tolist()
    table = metrics.classification_report(truth, predicted, target_names=LABELS, output_dict=True)
    for row in result.tables["labels"]:
        expected = table[row["label"]]
        assert (row["precision"], row["recall"]) == pytest.approx(
            (expected["precision"], expected["recall"])
        )
        assert (row["f1"], row["truth"]) == pytest.approx(
            (expected["f1-score"], expected["support"])
        )


def test_resamples_are_scored_as_scikit_learn_scores_them():
    truth, probabilities = predictions(40, 5)
    predicted, every = probabilities.argmax(1), np.arange(5)
    is_true, is_predicted = truth[:, None] == every, predicted[:, None] == every
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), 50).astype(float)
    counts = [weights @ part for part in (is_true & is_predicted, is_true, is_predicted)]
    macro, micro, correlation = f1_macro(*counts), f1_micro(*counts), matthews(*counts)
    for index, times in enumerate(weights.astype(int)):
        a, b = np.repeat(truth, times), np.repeat(predicted, times)
        assert macro[index] == pytest.approx(metrics.f1_score(a, b, average="macro"))
        assert micro[index] == pytest.approx(metrics.f1_score(a, b, average="micro"))
        assert correlation[index] == pytest.approx(metrics.matthews_corrcoef(a, b))


@pytest.mark.parametrize("predicted", [0, 1])
def test_one_label_throughout(predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = classification(("a", "b"), np.zeros(9, int), np.eye(2)[np.full(9, predicted)])
    assert result["accuracy"].value == 1 - predicted
    assert result["matthews"].value == 0
    assert result["f1_macro"].value == 1 - predicted
    assert np.isfinite(result["loss"].value)
    assert len(result.tables["confusion"]["counts"]) == 2


def test_labels_that_do_not_occur_do_not_count():
    truth, probabilities = predictions(50, 3)
    more = np.concatenate([probabilities, np.zeros((50, 1))], 1)
    for first, second in zip(
        classification(LABELS[:3], truth, probabilities).metrics,
        classification(LABELS, truth, more).metrics,
        strict=True,
    ):
        assert first == second


def test_ten_thousand_examples_take_no_time_to_speak_of():
    import time

    truth, probabilities = predictions(10_000, 10)
    classification(tuple("abcdefghij"), truth, probabilities)  # loads scikit-learn
    start = time.process_time()
    classification(tuple("abcdefghij"), truth, probabilities)
    assert time.process_time() - start < 3


def test_any_number_of_labels():
    truth = RANDOM.random((300, 4)) < 0.3
    probabilities = np.clip(0.4 * truth + RANDOM.random((300, 4)) * 0.6, 0, 1)
    predicted = probabilities >= 0.5
    result = multilabel(LABELS, truth, probabilities)
    expected = {
        "f1_micro": metrics.f1_score(truth, predicted, average="micro"),
        "f1_macro": metrics.f1_score(truth, predicted, average="macro"),
        "exact_match": metrics.accuracy_score(truth, predicted),
        "loss": np.mean([metrics.log_loss(truth[:, k], probabilities[:, k]) for k in range(4)]),
    }
    for metric in result.metrics:
        assert metric.value == pytest.approx(expected[metric.name]), metric.name
        assert metric.low < metric.value < metric.high
    assert [row["truth"] for row in result.tables["labels"]] == truth.sum(0).tolist()


def test_no_label_at_all():
    nothing = np.zeros((5, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = multilabel(("a", "b"), nothing, nothing)
    assert result["exact_match"].value == 1
    assert result["f1_micro"].value == 0
    assert result["f1_macro"].value == 0
    with pytest.raises(UserError, match="no examples"):
        multilabel(("a", "b"), nothing[:0], nothing[:0])


def test_notes_say_what_guessing_gives_and_what_shows_little():
    targets = np.array([0] * 30 + [1] * 10)
    always = np.tile([0.4, 0.6], (40, 1))
    guesses = classification(("no", "yes"), targets, always)
    assert guesses.notes() == [
        "always predicting 'no' has accuracy 0.7500",
        "the model predicts 'yes' every time",
    ]
    right = classification(("no", "yes"), targets, np.eye(2)[targets])
    assert right.notes() == ["always predicting 'no' has accuracy 0.7500"]
    assert right.to_dict()["notes"] == right.notes()
    few = classification(("no", "yes"), targets[-12:], np.eye(2)[targets[-12:]])
    assert few.notes()[0] == "only 12 examples: too few to tell models apart"
    either = np.tile([[1, 0], [1, 1]], (15, 1))
    assert multilabel(("a", "b"), either, np.tile([0.9, 0.1], (30, 1))).notes() == [
        "the model predicts 'a' every time"
    ]
    assert multilabel(("a", "b"), either, np.zeros((30, 2))).notes() == [
        "the model predicts no label every time"
    ]
    assert "notes" not in multilabel(("a", "b"), np.ones((30, 2)), np.ones((30, 2))).to_dict()
