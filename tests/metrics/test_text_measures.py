"""Language, preferences, similarity, translation: known values, sacrebleu, scipy."""

import math

import numpy as np
import pytest
import sacrebleu
from scipy import stats

from llmjax.errors import UserError
from llmjax.metrics.text import language, preference, similarity
from llmjax.metrics.written import translation


def test_language():
    found = language(np.array([2.0, 6.0]), np.array([1.0, 3.0]), np.array([1, 1]), np.array([4, 4]))
    assert found["loss"].value == 2
    assert found["perplexity"].value == pytest.approx(math.exp(2))
    assert found["accuracy"].value == 0.5
    assert found["bits_per_byte"].value == pytest.approx(1 / math.log(2))
    assert found["perplexity"].low == pytest.approx(math.exp(found["loss"].low))
    assert found.headline().name == "loss"
    assert not found.headline().larger_is_better
    assert (
        language(np.array([1e6]), np.ones(1), np.ones(1)).to_dict()["figures"]["perplexity"][
            "value"
        ]
        is None
    )


def test_language_without_tokens():
    for count in (0, 2):
        with pytest.raises(UserError, match="no examples"):
            language(*[np.zeros(count)] * 3)


def test_preference():
    found = preference(np.array([1.0, -2.0, 0.0, 3.0]))
    assert found["accuracy"].value == 0.625
    assert found["margin"].value == 0.5
    assert preference(np.zeros(3))["loss"].value == pytest.approx(math.log(2))
    assert np.isfinite(preference(np.array([-1e4]))["loss"].value)


def test_similarity():
    cosines = np.array([[0.9, 0.1, 0.2], [0.3, 0.2, 0.8], [0.0, 0.1, 0.5]])
    found = similarity(cosines, scale=2.0)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["mean_reciprocal_rank"].value == pytest.approx((1 + 1 / 3 + 1) / 3)
    exp = np.exp(2 * cosines)
    assert found["loss"].value == pytest.approx(-np.log(exp.diagonal() / exp.sum(1)).mean())
    expected = stats.spearmanr(cosines.ravel(), np.eye(3).ravel()).statistic
    assert found["spearman"].value == pytest.approx(expected)
    assert similarity(np.ones((4, 4)))["accuracy"].value == 0, "of equals the own one comes last"


REFERENCES = ["Ein Hund läuft im Park.", "Zwei Kinder spielen Ball.", "Das Haus ist rot."] * 9
WRITTEN = ["Ein Hund rennt im Park.", "Zwei Kinder spielen.", "Das Haus ist rot."] * 9


def test_translation_is_sacrebleus():
    found = translation(REFERENCES, WRITTEN)
    bleu = sacrebleu.corpus_bleu(WRITTEN, [REFERENCES])
    assert found["bleu"].value == bleu.score
    assert found["chrf"].value == sacrebleu.corpus_chrf(WRITTEN, [REFERENCES]).score
    assert found["exact_match"].value == pytest.approx(1 / 3)
    for name in ("bleu", "chrf", "exact_match"):
        assert found[name].low < found[name].value < found[name].high
    assert found.signature.startswith("BLEU|nrefs:1|bs:1000|seed:")
    assert f"tok:13a|smooth:exp|version:{sacrebleu.__version__} chrF2|" in found.signature
    assert found.tables["bleu"]["brevity_penalty"] == pytest.approx(bleu.bp)


def test_other_words_and_nothing_written():
    chinese = translation(["他在公园里跑步"], ["他在公园里走路"], "zh")
    assert chinese["bleu"].value > 10
    assert "tok:zh" in chinese.signature
    nothing = translation(["a b c d", "e"], ["", ""])
    assert nothing["bleu"].value == 0
    assert nothing["chrf"].value == 0
    with pytest.raises(UserError, match="no examples"):
        translation([], [])
    with pytest.raises(ValueError, match="1 truths, but 2"):
        translation(["a"], ["a", "b"])


def test_translations_of_which_some_are_nothing_can_be_measured():
    found = translation(["ab cd ef gh", "x y z w"], ["ab cd ef gh", ""])
    assert found["bleu"].low < found["bleu"].value < found["bleu"].high
    assert translation(["ab"], [""])["bleu"].value == 0
