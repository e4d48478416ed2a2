"""Language, translation, answers: known values, sacrebleu, SQuAD's script."""

import math

import numpy as np
import pytest
import sacrebleu

from llmjax.errors import UserError
from llmjax.metrics.texts import extractive_answers, language, normalized, translation, word_f1


def test_language():
    result = language(
        np.array([2.0, 6.0]), np.array([1.0, 3.0]), np.array([1, 1]), np.array([4, 4])
    )
    assert result["loss"].value == 2
    assert result["perplexity"].value == pytest.approx(math.exp(2))
    assert result["accuracy"].value == 0.5
    assert result["bits_per_byte"].value == pytest.approx(1 / math.log(2))
    assert result["perplexity"].low == pytest.approx(math.exp(result["loss"].low))
    assert result.headline().name == "loss"
    assert not result.headline().larger_is_better
    assert (
        language(np.array([1e6]), np.ones(1), np.ones(1)).to_dict()["metrics"]["perplexity"][
            "value"
        ]
        is None
    )


def test_language_without_tokens():
    for count in (0, 2):
        with pytest.raises(UserError, match="no examples"):
            language(*[np.zeros(count)] * 3)


REFERENCES = ["Ein Hund läuft im Park.", "Zwei Kinder spielen Ball.", "Das Haus ist rot."] * 9
WRITTEN = ["Ein Hund rennt im Park.", "Zwei Kinder spielen.", "Das Haus ist rot."] * 9


def test_translation_is_sacrebleus():
    result = translation(REFERENCES, WRITTEN)
    bleu = sacrebleu.corpus_bleu(WRITTEN, [REFERENCES])
    assert result["bleu"].value == bleu.score
    assert result["chrf"].value == sacrebleu.corpus_chrf(WRITTEN, [REFERENCES]).score
    assert result["exact_match"].value == pytest.approx(1 / 3)
    for name in ("bleu", "chrf", "exact_match"):
        assert result[name].low < result[name].value < result[name].high
    assert result.signature.startswith("BLEU|nrefs:1|bs:1000|seed:")
    assert f"tok:13a|smooth:exp|version:{sacrebleu.__version__} chrF2|" in result.signature
    assert result.tables["bleu"]["brevity_penalty"] == pytest.approx(bleu.bp)


def test_other_words_and_nothing_written():
    chinese = translation(["他在公园里跑步"], ["他在公园里走路"], "zh")
    assert chinese["bleu"].value > 10
    assert "tok:zh" in chinese.signature
    nothing = translation(["a b c d", "e"], ["", ""])
    assert nothing["bleu"].value == 0
    assert nothing["chrf"].value == 0
    with pytest.raises(UserError, match="no examples"):
        translation([], [])
    with pytest.raises(ValueError, match="1 targets, but 2"):
        translation(["a"], ["a", "b"])


def test_translations_of_which_some_are_nothing_can_be_measured():
    result = translation(["ab cd ef gh", "x y z w"], ["ab cd ef gh", ""])
    assert result["bleu"].low < result["bleu"].value < result["bleu"].high
    assert translation(["ab"], [""])["bleu"].value == 0


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
    result = extractive_answers([["in 1990", "1990"], ["Paris"]], ["1990", "Paris, France"])
    assert result["exact_match"].value == 0.5
    assert result["f1"].value == pytest.approx((1 + 2 / 3) / 2)
    assert [metric.name for metric in result.metrics] == ["f1", "exact_match"]
    assert result.tables == {}


def test_questions_without_an_answer():
    truth = [["Paris"], [], ["Rome"], [""]]
    result = extractive_answers(truth, ["Paris", "", "", "Oslo"])
    assert result["exact_match"].value == 0.5
    assert result["answered_exact_match"].value == 0.5
    assert result["answered_f1"].value == 0.5
    assert result["unanswered_accuracy"].value == 0.5
    only = extractive_answers([[]], [""])
    assert [metric.name for metric in only.metrics] == ["f1", "exact_match", "unanswered_accuracy"]


def brute(scores, has, silent):
    """SQuAD's definition, threshold by threshold."""
    return max(
        np.mean(np.where(silent > threshold, ~has, np.where(has, scores, 0)))
        for threshold in (-np.inf, *silent)
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold(seed):
    random = np.random.default_rng(seed)
    count = 12
    has = random.random(count) < 0.6
    has[0] = False
    truth = [["cat"] if item else [] for item in has]
    spans = random.choice(["cat", "dog"], count)
    silent = random.integers(0, 5, count) * 1.0
    result = extractive_answers(truth, [""] * count, spans, silent).tables["threshold"][
        "exact_match"
    ]
    assert result["value"] == pytest.approx(brute(spans == "cat", has, silent))
    predicted = np.where(silent > result["at"], "", spans)
    reached = extractive_answers(truth, predicted, spans, silent)["exact_match"].value
    assert reached == pytest.approx(result["value"])


def test_none():
    with pytest.raises(UserError, match="no examples"):
        extractive_answers([], [])
    with pytest.raises(ValueError, match="1 targets, but 0 predictions"):
        extractive_answers([[]], [])


def test_notes_name_a_model_that_gives_one_answer():
    truth = [["Oslo"]] * 30 + [[]] * 10
    silent = extractive_answers(truth, [""] * 40)
    assert silent.notes() == [
        "always predicting no answer has exact match 0.2500",
        "the model predicts no answer every time",
    ]
    assert extractive_answers(truth, ["Oslo"] * 40).notes() == silent.notes()[:1]
    assert extractive_answers(truth[:30], ["Bonn"] * 30).notes() == []
    references = ["ein Hund", "ein Mann"] * 15
    assert translation(references, ["ein Hund"] * 30).notes() == [
        "the model writes the same text every time"
    ]
    assert translation(references, [""] * 30).notes() == ["the model writes nothing every time"]
    assert translation(references, references).notes() == []
