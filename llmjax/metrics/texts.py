"""Texts: how likely they are, translations against references, answers against true ones."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.metrics.metric import (
    RESAMPLES,
    Metric,
    Metrics,
    mean,
    means,
    ratio,
    require_equal,
    require_examples,
)

MAX_RESAMPLED = 2_000_000
"""Texts in all resamples of BLEU: sacrebleu holds 18 numbers of each at once."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))


def language(
    nll: np.ndarray,
    tokens: np.ndarray,
    correct: np.ndarray | None = None,
    num_bytes: np.ndarray | None = None,
) -> Metrics:
    """Next-token prediction. Intervals come from resampling texts.

    Metrics: loss (nats per token), perplexity (its exponential), with `correct` accuracy (share of
    tokens that were the likeliest), with `num_bytes` bits_per_byte.

    Args:
      nll: float [N], of each text, summed over its tokens.
      tokens: float [N], the weight of each text's tokens.
      correct: float [N], the weight of those that were the likeliest.
      num_bytes: int [N], of each text in UTF-8.

    Raises:
      UserError: there are no texts, or none of their tokens counts.
    """
    require_equal(len(nll), len(tokens))
    require_examples(int(np.count_nonzero(tokens)))
    loss = ratio("loss", nll, tokens, larger_is_better=False)
    metrics = [
        loss,
        Metric("perplexity", _exp(loss.value), _exp(loss.low), _exp(loss.high), False),
    ]
    if correct is not None:
        require_equal(len(nll), len(correct))
        metrics.append(ratio("accuracy", correct, tokens))
    if num_bytes is not None:
        bits = np.asarray(nll, np.float64) / math.log(2)
        metrics.append(ratio("bits_per_byte", bits, num_bytes, larger_is_better=False))
    return Metrics(tuple(metrics), len(nll))


def translation(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: str = "13a"
) -> Metrics:
    """Corpus BLEU (arXiv:1804.08771) and chrF2 (Popović 2015), both from 0 to 100, by sacrebleu.

    Metrics: bleu, chrf, exact_match (share of texts that are the reference). The intervals of the
    first two are sacrebleu's own: "signature" holds both metrics' signatures, resamples and seed in
    them. Table "bleu": precisions of 1 ... 4 words, brevity_penalty, length_ratio.

    Args:
      references: a text for each of N.
      hypotheses: what was written.
      tokenize: sacrebleu's name of how words are found: "13a", "zh", "char", ...

    Raises:
      UserError: there are no texts.
    """
    from sacrebleu.metrics import BLEU, CHRF

    require_equal(len(references), len(hypotheses))
    require_examples(len(references))
    bleu, chrf = _with_plain_scores(BLEU(tokenize=tokenize)), _with_plain_scores(CHRF())
    draws = max(2, min(RESAMPLES, MAX_RESAMPLED // len(references)))
    written, true = list(hypotheses), [list(references)]
    score = bleu.corpus_score(written, true, n_bootstrap=draws)
    characters = chrf.corpus_score(written, true, n_bootstrap=draws)
    same = [a.strip() == b.strip() for a, b in zip(references, hypotheses, strict=True)]
    table = {
        "precisions": list(score.precisions),
        "brevity_penalty": score.bp,
        "length_ratio": score.sys_len / max(score.ref_len, 1),
    }
    return Metrics(
        (
            _from_sacrebleu("bleu", score),
            _from_sacrebleu("chrf", characters),
            mean("exact_match", np.array(same)),
        ),
        len(references),
        {"bleu": table},
        signature=f"BLEU|{bleu.get_signature()} chrF2|{chrf.get_signature()}",
    )


def sentence_chrf(reference: str, hypothesis: str) -> float:
    """chrF of one text, 0 to 100 (Popović 2015), for finding the worst."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def extractive_answers(
    targets: Sequence[Sequence[str]],
    predicted: Sequence[str],
    spans: Sequence[str] | None = None,
    none_scores: Sequence[float] | None = None,
) -> Metrics:
    """One answer for each of N questions (SQuAD 1.1, arXiv:1606.05250, and 2.0, arXiv:1806.03822).

    Metrics, all between 0 and 1: f1 (words shared with the nearest true answer), exact_match; where
    some questions have no answer also answered_f1 and answered_exact_match (of questions that have
    one) and unanswered_accuracy (of those that have none). Table "threshold", where `spans` and
    `none_scores` are given and some have no answer: for "f1" and "exact_match" the "value" that
    would be reached, were no answer given above the none score "at".

    Args:
      targets: of each question its true answers; none, or only empty ones: it has no answer.
      predicted: an answer for each, "" for none.
      spans: the best answer that is one, for each question.
      none_scores: how strongly each question seems to have no answer; comparable among questions.

    Raises:
      UserError: there are no questions.
    """
    require_equal(len(targets), len(predicted))
    require_examples(len(targets))
    known = [[text for text in texts if normalized(text)] or [""] for texts in targets]
    has = np.array([texts != [""] for texts in known])
    scores = _scores(known, predicted)
    metrics = means({"f1": scores[:, 1], "exact_match": scores[:, 0]})
    if not has.all():
        if has.any():
            of = scores[has]
            metrics += means({"answered_f1": of[:, 1], "answered_exact_match": of[:, 0]})
        metrics += means({"unanswered_accuracy": scores[~has, 0]})
    tables = {}
    if spans is not None and none_scores is not None and not has.all():
        require_equal(len(targets), len(spans))
        require_equal(len(targets), len(none_scores))
        kept, silent = _scores(known, spans), np.asarray(none_scores, np.float64)
        tables["threshold"] = {
            "f1": _best_threshold(kept[:, 1], has, silent),
            "exact_match": _best_threshold(kept[:, 0], has, silent),
        }
    return Metrics(tuple(metrics), len(targets), tables)


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, single spaces between words."""
    text = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def word_f1(targets: str, predicted: str) -> float:
    """Harmonic mean of the shares of words that two answers have in common, each normalized."""
    first, second = normalized(targets).split(), normalized(predicted).split()
    if not first or not second:
        return float(first == second)
    shared = (Counter(first) & Counter(second)).total()
    return 2 * shared / (len(first) + len(second))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _with_plain_scores(metric: Any) -> Any:
    """The metric, whose scores are all of Python's own type: sacrebleu 2.6 gives some resamples
    NumPy's, and then cannot take their mean."""
    score_of = metric._compute_score_from_stats

    def plain(stats: list[int]) -> Any:
        found = score_of(stats)
        found.score = float(found.score)
        return found

    metric._compute_score_from_stats = plain
    return metric


def _from_sacrebleu(name: str, score: Any) -> Metric:
    """sacrebleu's interval lies around the mean of its resamples."""
    middle, half = float(score._mean), float(score._ci)
    return Metric(name, float(score.score), max(0.0, middle - half), min(100.0, middle + half))


def _scores(known: Sequence[Sequence[str]], predicted: Sequence[str]) -> np.ndarray:
    """float64 [N, (exact match, F1)], each with the true answer that suits best."""
    return np.array(
        [
            [
                max(float(normalized(text) == normalized(answer)) for text in texts),
                max(word_f1(text, answer) for text in texts),
            ]
            for texts, answer in zip(known, predicted, strict=True)
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
