"""Several rankings as one."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

K = 60
"""The constant of reciprocal rank fusion, as in the paper."""

Item = TypeVar("Item", bound=Hashable)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Item]]) -> list[tuple[Item, float]]:
    """Fuse rankings: an item's score is the sum of 1 / (K + rank) over those that have it.

    Cormack, Clarke and Buettcher 2009. Equal scores are ordered by the best rank, then by the order
    of the rankings.

    Args:
      rankings: best first; ranks count from 1.

    Returns:
      Items with their scores, best first.
    """
    scores: dict[Item, float] = defaultdict(float)
    best: dict[Item, tuple[int, int]] = {}
    for number, ranking in enumerate(rankings):
        for rank, item in enumerate(ranking, 1):
            scores[item] += 1 / (K + rank)
            best[item] = min(best.get(item, (rank, number)), (rank, number))
    return sorted(scores.items(), key=lambda pair: (-pair[1], best[pair[0]]))
