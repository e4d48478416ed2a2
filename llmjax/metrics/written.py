"""Texts that were written: translations and the like, beside those that people wrote."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmjax.metrics.bootstrap import RESAMPLES, mean
from llmjax.metrics.figures import Measure, Measures, require_equal, require_examples

DRAWN = 2_000_000  # texts in all resamples: sacrebleu holds 18 numbers of each at once


def translation(
    references: Sequence[str], hypotheses: Sequence[str], tokenize: str = "13a"
) -> Measures:
    """Corpus BLEU (arXiv:1804.08771) and chrF2 (Popović 2015), both from 0 to 100, by sacrebleu.

    Figures: bleu, chrf, exact_match (share of texts that are the reference). The intervals of the
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
    bleu, chrf = _of_one_type(BLEU(tokenize=tokenize)), _of_one_type(CHRF())
    draws = max(2, min(RESAMPLES, DRAWN // len(references)))
    written, true = list(hypotheses), [list(references)]
    score = bleu.corpus_score(written, true, n_bootstrap=draws)
    characters = chrf.corpus_score(written, true, n_bootstrap=draws)
    same = [a.strip() == b.strip() for a, b in zip(references, hypotheses, strict=True)]
    table = {
        "precisions": list(score.precisions),
        "brevity_penalty": score.bp,
        "length_ratio": score.sys_len / max(score.ref_len, 1),
    }
    return Measures(
        (_figure("bleu", score), _figure("chrf", characters), mean("exact_match", np.array(same))),
        len(references),
        {"bleu": table},
        signature=f"BLEU|{bleu.get_signature()} chrF2|{chrf.get_signature()}",
    )


def _of_one_type(metric: Any) -> Any:
    """The metric, whose scores are all of Python's own type: sacrebleu 2.6 gives some resamples
    NumPy's, and then cannot take their mean."""
    score_of = metric._compute_score_from_stats

    def plain(stats: list[int]) -> Any:
        found = score_of(stats)
        found.score = float(found.score)
        return found

    metric._compute_score_from_stats = plain
    return metric


def sentence_chrf(reference: str, hypothesis: str) -> float:
    """chrF of one text, 0 to 100 (Popović 2015), for finding the worst."""
    from sacrebleu.metrics import CHRF

    return float(CHRF().sentence_score(hypothesis, [reference]).score)


def _figure(name: str, score: Any) -> Measure:
    """sacrebleu's interval lies around the mean of its resamples."""
    middle, half = float(score._mean), float(score._ci)
    return Measure(name, float(score.score), max(0.0, middle - half), min(100.0, middle + half))
