"""Answers found in a text, as SQuAD's official script compares them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from llmjax.metrics.bootstrap import means
from llmjax.metrics.figures import Measures, require_equal, require_examples

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))


def answers(
    truth: Sequence[Sequence[str]],
    told: Sequence[str],
    spans: Sequence[str] | None = None,
    none_scores: Sequence[float] | None = None,
) -> Measures:
    """One answer for each of N questions (SQuAD 1.1, arXiv:1606.05250, and 2.0, arXiv:1806.03822).

    Figures, all between 0 and 1: f1 (words shared with the nearest true answer), exact_match; where
    some questions have no answer also answered_f1 and answered_exact_match (of questions that have
    one) and unanswered_accuracy (of those that have none). Table "threshold", where `spans` and
    `none_scores` are given and some have no answer: for "f1" and "exact_match" the "value" that
    would be reached, were no answer given above the none score "at".

    Args:
      truth: of each question its true answers; none, or only empty ones: it has no answer.
      told: an answer for each, "" for none.
      spans: the best answer that is one, for each question.
      none_scores: how strongly each question seems to have no answer; comparable among questions.

    Raises:
      UserError: there are no questions.
    """
    require_equal(len(truth), len(told))
    require_examples(len(truth))
    known = [[text for text in texts if normalized(text)] or [""] for texts in truth]
    has = np.array([texts != [""] for texts in known])
    scores = _scores(known, told)
    figures = means({"f1": scores[:, 1], "exact_match": scores[:, 0]})
    if not has.all():
        if has.any():
            of = scores[has]
            figures += means({"answered_f1": of[:, 1], "answered_exact_match": of[:, 0]})
        figures += means({"unanswered_accuracy": scores[~has, 0]})
    tables = {}
    if spans is not None and none_scores is not None and not has.all():
        require_equal(len(truth), len(spans))
        require_equal(len(truth), len(none_scores))
        kept, silent = _scores(known, spans), np.asarray(none_scores, np.float64)
        tables["threshold"] = {
            "f1": _best_threshold(kept[:, 1], has, silent),
            "exact_match": _best_threshold(kept[:, 0], has, silent),
        }
    return Measures(tuple(figures), len(truth), tables)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces between words."""
    text = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def word_f1(truth: str, told: str) -> float:
    """Harmonic mean of the shares of words that two answers have in common, each normalized."""
    first, second = normalized(truth).split(), normalized(told).split()
    if not first or not second:
        return float(first == second)
    shared = (Counter(first) & Counter(second)).total()
    return 2 * shared / (len(first) + len(second))


def _scores(known: Sequence[Sequence[str]], told: Sequence[str]) -> np.ndarray:
    """float64 [N, (exact match, F1)], each with the true answer that suits best."""
    return np.array(
        [
            [
                max(float(normalized(text) == normalized(answer)) for text in texts),
                max(word_f1(text, answer) for text in texts),
            ]
            for texts, answer in zip(known, told, strict=True)
        ]
    )


def _best_threshold(scores: np.ndarray, has: np.ndarray, silent: np.ndarray) -> dict[str, float]:
    """Where to begin to give no answer, so that the mean score is largest.

    Answers are given to the k questions of the lowest none score, for the best k that parts no
    equal scores: questions without an answer then lose their point, others gain their score.
    """
    order = np.argsort(silent, kind="stable")
    gains = np.cumsum(np.where(has, scores, -1.0)[order])
    ordered = silent[order]
    whole = np.r_[ordered[1:] != ordered[:-1], True]
    gains = np.where(whole, gains, -np.inf)
    best = int(np.argmax(gains))
    nothing = float(np.sum(~has))
    if gains[best] <= 0:
        return {"value": nothing / len(has), "at": float(np.nextafter(ordered[0], -np.inf))}
    return {"value": float(nothing + gains[best]) / len(has), "at": float(ordered[best])}
