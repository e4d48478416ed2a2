"""Runs of tasks: metrics with intervals, confusions, mistakes, curves; nothing of bits per byte."""

import json

import pytest
from pages import page
from report_tasks import LABELS, MEASURES, SCORE, TOPIC, task_run

from llmjax.reporting.confusion import confusion

OF_TEXT = ("bits per byte", "ompressor", "idden", "validation text", "Samples")


def test_each_task_has_its_metrics_and_its_signature(maker):
    document = page(task_run(maker, TOPIC, SCORE, measures=MEASURES))
    for expected in (
        "Task: topic",
        "Task: score",
        "91.23 % accuracy, topic",
        "0.7000 Pearson correlation, score",
        "accuracy 91.23 % 85.00 to 96.00 %",
        "Evaluated at step 40 on 100 examples: what it holds out",
        "Signature: BLEU|nrefs:1|v:2.6",
        "600 examples, 9k tokens, 100 validation rows",
        "news 66.7 %, sport 33.3 %",
        "trained for 40 steps (4k tokens) on 600 examples",
    ):
        assert expected in document.text


@pytest.mark.parametrize("measures", [None, MEASURES])
def test_nothing_is_said_of_text(maker, measures):
    text = page(task_run(maker, TOPIC, measures=measures)).text.split("All fields")[0]
    for words in OF_TEXT:
        assert words not in text, words
    assert "bootstrap" in page(maker.folder).text


def test_a_task_that_was_not_measured_apart_has_the_figures_of_its_log(maker):
    text = page(task_run(maker, TOPIC)).text
    assert "90.00 % accuracy on validation examples" in text


def test_predictions_are_a_table_of_shades_and_values_are_escaped(maker):
    document = page(task_run(maker, TOPIC, measures=MEASURES))
    cells = [cell for cell in document.all("td") if "--share" in (cell.get("style") or "")]
    assert len(cells) == 7
    assert cells[0]["style"] == "--share:95%"
    assert cells[0]["class"] == "right strong"
    assert cells[1]["title"] == "news predicted as sport: 3, 5.7 % of news"
    assert f"{LABELS[2]} 90.0 % 80.0 % 84.7 %" in document.text
    assert "news 50 3 0 sport 2 30 1" in document.text, "0 is a count"
    assert "</script><script>alert(1)</script>␛ dev.tsv line 7 news sport (99%)" in document.text
    assert document.source.count("<script>") == 1


def test_metrics_are_drawn_over_steps_beside_the_loss(maker):
    labels = [svg["aria-label"] for svg in page(task_run(maker, TOPIC, SCORE)).all("svg")]
    assert labels[0].startswith("Loss by step")
    for title in ("topic: accuracy", "topic: macro F1", "topic: loss", "score: Pearson"):
        assert any(label.startswith(title) for label in labels), title
    single = [svg["aria-label"] for svg in page(task_run(maker, TOPIC)).all("svg")]
    accuracy = next(label for label in single if label.startswith("Accuracy by step"))
    assert "train from 51" in accuracy
    assert "validation from 70" in accuracy


def test_many_labels_are_cut_to_the_most_frequent_and_their_confusions_listed():
    names = [f"label {k}" for k in range(30)]
    counts = [[k if i == k else 1 for i in range(30)] for k in range(30)]
    counts[3][4] = 99
    table = confusion({"labels": names, "counts": counts})
    assert table is not None
    assert not table.upright
    assert len(table.labels) == len(table.rows) == len(table.rows[0]) == 20
    assert table.note == "The 20 most frequent of 30 labels."
    assert table.pairs[0][:3] == ("label 3", "label 4", "99")


@pytest.mark.parametrize(
    "measures",
    [
        [],
        {"topic": 3, "x": {}},
        {"topic": {"figures": {"accuracy": 3, "f1": {"value": None}}, "mistakes": [1, {}]}},
        {"topic": {"tables": {"confusion": {"labels": ["a", "b"], "counts": [[1, 2]]}}}},
        {"topic": {"tables": {"labels": [{"label": None}, 4], "confusion": {"labels": []}}}},
    ],
    ids=json.dumps,
)
def test_a_damaged_file_still_gives_a_page(maker, measures):
    assert "Training curves" in page(task_run(maker, TOPIC, measures=measures)).text
