"""Answers, as SQuAD's script compares them."""

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.metrics.spans import answers, normalized, word_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel Tower!", "eiffel tower"),
        ("A.B. an\tapple,\na day", "ab apple day"),
        ("theatre", "theatre"),
        ("the-end", "theend"),
        ("U.S.", "us"),
        ("«ein» Haus", "«ein» haus"),
        ("The", ""),
    ],
)
def test_normalized(text, expected):
    assert normalized(text) == expected


def test_word_f1():
    assert word_f1("the cat sat", "cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert word_f1("a a b b", "b b b") == pytest.approx(2 * 2 / (2 + 3))  # one a is an article
    assert word_f1("dog", "cat") == 0
    assert word_f1("", "") == 1
    assert word_f1("", "cat") == 0


def test_the_nearest_of_several_true_answers_counts():
    found = answers([["in 1990", "1990"], ["Paris"]], ["1990", "Paris, France"])
    assert found["exact_match"].value == 0.5
    assert found["f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert [figure.name for figure in found.figures] == ["f1", "exact_match"]
    assert found.tables == {}


def test_questions_without_an_answer():
    truth = [["Paris"], [], ["Rome"], [""]]
    found = answers(truth, ["Paris", "", "", "Oslo"])
    assert found["exact_match"].value == 0.5
    assert found["answered_exact_match"].value == 0.5
    assert found["answered_f1"].value == 0.5
    assert found["unanswered_accuracy"].value == 0.5
    only = answers([[]], [""])
    assert [figure.name for figure in only.figures] == ["f1", "exact_match", "unanswered_accuracy"]


def brute(scores, has, silent):
    """SQuAD's definition, threshold by threshold: above it no answer is given."""
    return max(
        np.mean(np.where(silent > at, ~has, np.where(has, scores, 0))) for at in (-np.inf, *silent)
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold(seed):
    random = np.random.default_rng(seed)
    count = 12
    has = random.random(count) < 0.6
    has[0] = False
    truth = [["cat"] if one else [] for one in has]
    spans = random.choice(["cat", "dog"], count)
    silent = random.integers(0, 5, count) * 1.0
    found = answers(truth, [""] * count, spans, silent).tables["threshold"]["exact_match"]
    assert found["value"] == pytest.approx(brute(spans == "cat", has, silent))
    told = np.where(silent > found["at"], "", spans)
    reached = answers(truth, told, spans, silent)["exact_match"].value
    assert reached == pytest.approx(found["value"])


def test_none():
    with pytest.raises(UserError, match="no examples"):
        answers([], [])
    with pytest.raises(ValueError, match="1 truths, but 0 predictions"):
        answers([[]], [])
