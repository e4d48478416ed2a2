"""Entities: known cases of conlleval, and nervaluate."""

import random

import nervaluate
import pytest
from sklearn import metrics

from llmjax.errors import UserError
from llmjax.metrics.tags import entities, spans, tags


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER", [("PER", 0, 2)]),
        ("O I-PER I-LOC O", [("PER", 1, 2), ("LOC", 2, 3)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-PER E-PER S-LOC I-LOC", [("PER", 0, 3), ("LOC", 3, 4), ("LOC", 4, 5)]),
        ("B-A-B I-A-B O", [("A-B", 0, 2)]),
    ],
)
def test_spans(sentence, expected):
    assert spans(sentence.split()) == expected


TRUTH = [t.split() for t in ("B-PER I-PER O B-LOC", "O O", "B-ORG I-ORG I-ORG", "B-LOC O")]
TOLD = [t.split() for t in ("B-PER I-PER O B-ORG", "O B-LOC", "B-ORG I-ORG O", "B-LOC O")]


def test_a_known_case():
    # True: 4 entities; predicted: 5; right: PER of the first sentence and LOC of the last.
    result = entities(TRUTH, TOLD)
    assert result["precision"].value == pytest.approx(2 / 5)
    assert result["recall"].value == pytest.approx(2 / 4)
    assert result["f1"].value == pytest.approx(4 / 9)
    assert result["accuracy"].value == pytest.approx(8 / 11)
    assert result.headline() == result["f1"]
    rows = {row["label"]: row for row in result.tables["labels"]}
    assert list(rows) == ["LOC", "ORG", "PER"]
    assert (rows["LOC"]["precision"], rows["LOC"]["recall"]) == (0.5, 0.5)
    assert (rows["ORG"]["truth"], rows["ORG"]["predicted"], rows["ORG"]["f1"]) == (1, 2, 0)


def test_against_nervaluate():
    draw = random.Random(0)

    def sentence():
        actual = []
        while len(actual) < 12:
            kind = draw.choice(["PER", "LOC", None])
            actual += ["O"] if kind is None else [f"B-{kind}", *[f"I-{kind}"] * draw.randint(0, 2)]
        return actual[:12]

    truth = [sentence() for _ in range(60)]
    predicted = [[*tags[:6], *sentence()[6:]] if draw.random() < 0.7 else tags for tags in truth]
    # nervaluate is stricter than conlleval: omit I- after another kind.
    predicted = [
        ["O" if t[0] == "I" and item[i - 1][1:] != t[1:] else t for i, t in enumerate(item)]
        for item in predicted
    ]
    result = nervaluate.Evaluator(truth, predicted, tags=["PER", "LOC"], loader="list").evaluate()
    strict = result["overall"]["strict"]
    actual = entities(truth, predicted)
    assert actual["f1"].value == pytest.approx(strict.f1)
    assert actual["precision"].value == pytest.approx(strict.precision)
    assert actual["recall"].value == pytest.approx(strict.recall)
    assert actual["f1"].low < actual["f1"].value < actual["f1"].high


def test_no_entities_true_or_predicted():
    result = entities([["O", "O"]], [["O", "O"]])
    assert [result[name].value for name in ("f1", "precision", "recall")] == [0, 0, 0]
    assert result["accuracy"].value == 1
    for empty in ([], [[]]):
        with pytest.raises(UserError, match="no examples"):
            entities(empty, empty)
    with pytest.raises(ValueError, match="1 targets, but 2 predictions"):
        entities([["O"]], [["O", "O"]])


def test_tags_without_beginnings_are_measured_one_by_one():
    truth = [["NOUN", "VERB"], ["DET", "NOUN", "VERB"]]
    predicted = [["NOUN", "NOUN"], ["DET", "NOUN", "VERB"]]
    result = tags(truth, predicted)
    assert result.examples == 2
    assert result["accuracy"].value == 0.8
    flat = [[tag for item in both for tag in item] for both in (truth, predicted)]
    assert result["f1_macro"].value == pytest.approx(metrics.f1_score(*flat, average="macro"))
    assert result.tables["confusion"]["labels"] == ["DET", "NOUN", "VERB"]
    assert tags(TRUTH, TOLD) == entities(TRUTH, TOLD)


def test_notes_name_a_model_that_finds_no_entity():
    outside = [["O"] * len(sentence) for sentence in TRUTH]
    result = entities(TRUTH * 10, outside * 10)
    assert result["f1"].value == 0
    assert result.notes() == [
        "always predicting 'O' has accuracy 0.3636",
        "the model predicts 'O' every time",
    ]
    assert entities(TRUTH * 10, TRUTH * 10).notes() == result.notes()[:1]
    nouns = tags([["N", "V"]] * 30, [["N", "N"]] * 30)
    assert nouns.notes() == [
        "always predicting 'N' has accuracy 0.5000",
        "the model predicts 'N' every time",
    ]
