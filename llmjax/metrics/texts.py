"""Metrics of language modelling, translation and question answering."""

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
"""Maximum texts in all resamples of BLEU: sacrebleu keeps 18 numbers of each in memory."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))


def language(
    nll: np.ndarray,
    tokens: np.ndarray,
    correct: np.ndarray | None = None,
    num_bytes: np.ndarray | None = None,
) -> Metrics:
    """Evaluate next-token prediction. Intervals resample texts.

    Metrics: loss (nats per token), perplexity (its exponential); with `correct` also accuracy
    (fraction of tokens predicted correctly); with `num_bytes` also bits_per_byte.

    Args:
      nll: float [N], summed over each text's tokens.
      tokens: float [N], weight of each text's tokens.
      correct: float [N], weight of each text's correctly predicted tokens.
      num_bytes: int [N], UTF-8 bytes of each text.

    Raises:
      UserError: there are no texts, or no tokens with weight.
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
    """Compute corpus BLEU (arXiv:1804.08771) and chrF2 (Popović 2015), both from 0 to 100.

    Metrics: bleu, chrf, exact_match (fraction of texts equal to the reference). Intervals of bleu
    and chrf are sacrebleu's; `signature` has its signatures, with resamples and seed. Table "bleu":
    precisions of 1 to 4 words, brevity_penalty, length_ratio.

    Args:
      references: N reference texts.
      hypotheses: N generated texts.
      tokenize: sacrebleu's tokenizer: "13a", "zh", "char", ...

    Raises:
      UserError: there are no texts.
    """
    from sacrebleu.metrics import BLEU, CHRF

    require_equal(len(references), len(hypotheses))
    require_examples(len(references))
    bleu, chrf = _with_plain_scores(BLEU(tokenize=tokenize)), _with_plain_scores(CHRF())
    draws = max(2, min(RESAMPLES, MAX_RESAMPLED // len(references)))
    texts, targets = list(hypotheses), [list(references)]
    bleu_score = bleu.corpus_score(texts, targets, n_bootstrap=draws)
    chrf_score = chrf.corpus_score(texts, targets, n_bootstrap=draws)
    same = [a.strip() == b.strip() for a, b in zip(references, hypotheses, strict=True)]
    table = {
        "precisions": list(bleu_score.precisions),
        "brevity_penalty": bleu_score.bp,
        "length_ratio": bleu_score.sys_len / max(bleu_score.ref_len, 1),
    }
    return Metrics(
        (
            _from_sacrebleu("bleu", bleu_score),
            _from_sacrebleu("chrf", chrf_score),
            mean("exact_match", np.array(same)),
        ),
        len(references),
        {"bleu": table},
        signature=f"BLEU|{bleu.get_signature()} chrF2|{chrf.get_signature()}",
        remarks=_text_remarks(references, hypotheses),
    )


def sentence_chrf(reference: str, hypothesis: str) -> float:
    """Compute chrF of one text, 0 to 100 (Popović 2015)."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def extractive_answers(
    targets: Sequence[Sequence[str]],
    predicted: Sequence[str],
    spans: Sequence[str] | None = None,
    none_scores: Sequence[float] | None = None,
) -> Metrics:
    """Evaluate answers to N questions (SQuAD 1.1, arXiv:1606.05250, and 2.0, arXiv:1806.03822).

    Metrics, all between 0 and 1: f1 (of words, against the best matching true answer), exact_match;
    if some questions are unanswerable also answered_f1 and answered_exact_match (of answerable
    questions) and unanswered_accuracy (of the others). Table "threshold", with `spans`,
    `none_scores` and unanswerable questions: for "f1" and "exact_match" the best threshold "at" of
    the none score, and the "value" that it reaches.

    Args:
      targets: the true answers of each question; empty, or only empty ones, if unanswerable.
      predicted: an answer for each, "" for none.
      spans: the best non-empty answer for each question.
      none_scores: score of no answer, comparable among questions.

    Raises:
      UserError: there are no questions.
    """
    require_equal(len(targets), len(predicted))
    require_examples(len(targets))
    known = [[text for text in texts if normalized(text)] or [""] for texts in targets]
    has_answer = np.array([texts != [""] for texts in known])
    scores = _scores(known, predicted)
    metrics = means({"f1": scores[:, 1], "exact_match": scores[:, 0]})
    if not has_answer.all():
        if has_answer.any():
            answered = scores[has_answer]
            metrics += means(
                {"answered_f1": answered[:, 1], "answered_exact_match": answered[:, 0]}
            )
        metrics += means({"unanswered_accuracy": scores[~has_answer, 0]})
    tables = {}
    if spans is not None and none_scores is not None and not has_answer.all():
        require_equal(len(targets), len(spans))
        require_equal(len(targets), len(none_scores))
        span_scores, no_answer = _scores(known, spans), np.asarray(none_scores, np.float64)
        tables["threshold"] = {
            "f1": _best_threshold(span_scores[:, 1], has_answer, no_answer),
            "exact_match": _best_threshold(span_scores[:, 0], has_answer, no_answer),
        }
    remarks = _answer_remarks(has_answer, predicted)
    return Metrics(tuple(metrics), len(targets), tables, remarks=remarks)


def normalized(text: str) -> str:
    """Normalize as SQuAD does: lower case, without ASCII punctuation, English articles and extra
    white space."""
    text = _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION))
    return " ".join(text.split())


def word_f1(targets: str, predicted: str) -> float:
    """Compute the F1 of the words of two normalized answers."""
    first, second = normalized(targets).split(), normalized(predicted).split()
    if not first or not second:
        return float(first == second)
    shared = (Counter(first) & Counter(second)).total()
    return 2 * shared / (len(first) + len(second))


def _text_remarks(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[str, ...]:
    """Name a model that writes one text every time, where the references differ."""
    if len(set(hypotheses)) > 1 or len(set(references)) == 1:
        return ()
    return (f"the model writes {'the same text' if hypotheses[0] else 'nothing'} every time",)


def _answer_remarks(has_answer: np.ndarray, predicted: Sequence[str]) -> tuple[str, ...]:
    """Say what always predicting no answer gives, and whether the model does so."""
    remarks = []
    if not has_answer.all():
        share = np.mean(~has_answer)
        remarks.append(f"always predicting no answer has exact match {share:.4f}")
    if not any(predicted):
        remarks.append("the model predicts no answer every time")
    return tuple(remarks)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _with_plain_scores(metric: Any) -> Any:
    """Make a metric return Python floats: sacrebleu 2.6 returns NumPy scores for some resamples,
    and then fails to average them."""
    compute = metric._compute_score_from_stats

    def plain(stats: list[int]) -> Any:
        result = compute(stats)
        result.score = float(result.score)
        return result

    metric._compute_score_from_stats = plain
    return metric


def _from_sacrebleu(name: str, score: Any) -> Metric:
    """Convert a score; sacrebleu's interval is centred on the mean of its resamples."""
    middle, half = float(score._mean), float(score._ci)
    return Metric(name, float(score.score), max(0.0, middle - half), min(100.0, middle + half))


def _scores(known: Sequence[Sequence[str]], predicted: Sequence[str]) -> np.ndarray:
    """Score answers, float64 [N, (exact match, F1)], against the best matching true answer."""
    return np.array(
        [
            [
                max(float(normalized(text) == normalized(answer)) for text in texts),
                max(word_f1(text, answer) for text in texts),
            ]
            for texts, answer in zip(known, predicted, strict=True)
        ]
    )


def _best_threshold(
    scores: np.ndarray, has_answer: np.ndarray, no_answer: np.ndarray
) -> dict[str, float]:
    """Find the threshold of the none score that maximizes the mean score.

    The k questions of the lowest none score are answered, for the best k that does not split ties:
    unanswerable questions then lose their point, the others gain their score.
    """
    order = np.argsort(no_answer, kind="stable")
    gains = np.cumsum(np.where(has_answer, scores, -1.0)[order])
    ordered = no_answer[order]
    ends_ties = np.r_[ordered[1:] != ordered[:-1], True]
    gains = np.where(ends_ties, gains, -np.inf)
    best = int(np.argmax(gains))
    baseline, count = float(np.sum(~has_answer)), len(has_answer)
    if gains[best] <= 0:
        return {"value": baseline / count, "at": float(np.nextafter(ordered[0], -np.inf))}
    return {"value": float(baseline + gains[best]) / count, "at": float(ordered[best])}
