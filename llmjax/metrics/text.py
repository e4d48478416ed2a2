"""How well a model foretells texts, tells the better answer, and finds what belongs together."""

import math

import numpy as np

from llmjax.metrics.bootstrap import bootstrap, mean, measure
from llmjax.metrics.figures import Measure, Measures, require_equal, require_examples


def language(
    nats: np.ndarray,
    tokens: np.ndarray,
    correct: np.ndarray | None = None,
    num_bytes: np.ndarray | None = None,
) -> Measures:
    """Texts foretold token by token. Intervals come from drawing texts.

    Figures: loss (nats per token), perplexity (its exponential), with `correct` accuracy (share of
    tokens that were the likeliest), with `num_bytes` bits_per_byte.

    Args:
      nats: float [N], of each text, summed over its tokens.
      tokens: float [N], the weight of each text's tokens.
      correct: float [N], the weight of those that were the likeliest.
      num_bytes: int [N], of each text in UTF-8.

    Raises:
      UserError: there are no texts, or none of their tokens counts.
    """
    require_equal(len(nats), len(tokens))
    require_examples(int(np.count_nonzero(tokens)))
    loss = _ratio("loss", nats, tokens, larger_is_better=False)
    figures = [
        loss,
        Measure("perplexity", _exp(loss.value), _exp(loss.low), _exp(loss.high), False),
    ]
    if correct is not None:
        require_equal(len(nats), len(correct))
        figures.append(_ratio("accuracy", correct, tokens))
    if num_bytes is not None:
        bits = np.asarray(nats, np.float64) / math.log(2)
        figures.append(_ratio("bits_per_byte", bits, num_bytes, larger_is_better=False))
    return Measures(tuple(figures), len(nats))


def preference(margins: np.ndarray) -> Measures:
    """Pairs of answers, one of which is better (DPO, arXiv:2305.18290, equation 7).

    Figures: accuracy (share of pairs whose better answer has the larger reward; half a point where
    both are equal), loss (-log sigmoid of the margin), margin (mean).

    Args:
      margins: float [N], reward of the better answer less that of the worse: beta times the
        difference of their log-likelihoods, each less that of the reference model.

    Raises:
      UserError: there are no pairs.
    """
    margins = np.asarray(margins, np.float64)
    require_examples(len(margins))
    return Measures(
        (
            mean("accuracy", (np.sign(margins) + 1) / 2),
            mean("loss", np.logaddexp(0.0, -margins), larger_is_better=False),
            mean("margin", margins),
        ),
        len(margins),
    )


def similarity(
    cosines: np.ndarray, scale: float = 1.0, excluded: np.ndarray | None = None
) -> Measures:
    """Texts that each belong to one of N others: is it the nearest of all?

    Figures: accuracy (share of texts whose own is nearest), mean_reciprocal_rank, loss
    (cross-entropy over the N, in nats), spearman (of the cosines of all pairs with whether they
    belong together; without an interval, for pairs are not drawn one by one). Of equal cosines the
    own one comes last.

    Args:
      cosines: float [N, N]; text i belongs to text i of the others.
      scale: factor of the cosines in the loss.
      excluded: bool [N, N], False on the diagonal: which of the others text i is not compared with;
        None: it is compared with all.

    Raises:
      UserError: there are no texts.
    """
    from scipy import special, stats

    cosines = np.asarray(cosines, np.float64)
    require_examples(len(cosines))
    compared = np.ones(cosines.shape, bool) if excluded is None else ~excluded
    own = cosines.diagonal()
    ranks = ((cosines >= own[:, None]) & compared).sum(1)
    logits = np.where(compared, scale * cosines, -np.inf)
    nats = special.logsumexp(logits, axis=1) - scale * own
    among, together = cosines[compared], np.eye(len(cosines))[compared]
    flat = np.ptp(among) == 0 or np.ptp(together) == 0
    rho = 0.0 if flat else float(stats.spearmanr(among, together).statistic)
    return Measures(
        (
            mean("accuracy", ranks == 1),
            mean("mean_reciprocal_rank", 1 / ranks),
            mean("loss", nats, larger_is_better=False),
            Measure("spearman", rho, rho, rho),
        ),
        len(cosines),
    )


def _ratio(
    name: str, above: np.ndarray, below: np.ndarray, larger_is_better: bool = True
) -> Measure:
    table = np.stack([np.asarray(above, np.float64), np.asarray(below, np.float64)], axis=1)

    def share(weights: np.ndarray) -> np.ndarray:
        first, second = (weights @ table).T
        return np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)

    first, second = table.sum(0)
    return measure(name, first / second, bootstrap(share, len(table)), larger_is_better)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
