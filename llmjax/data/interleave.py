"""Several endless streams of rows merged into one, in proportion to weights.

Closed formulas: the cost does not depend on the row's number.
"""

from collections.abc import Sequence

SCALE = 100
"""The share of the lowest weight; the others' are rounded down to integers relative to it."""


class Interleaving:
    """Row number -> (index of the stream, row number in the stream).

    With integer shares s_1 ... s_n, the first stream gets ceil(k s_1 / (s_1 + ... + s_n)) of k
    rows, and the rest are merged from the other streams in the same way. So every stream is within
    a few rows of its share at all times.
    """

    def __init__(self, weights: Sequence[float]):
        """Args:
        weights: positive.
        """
        scale = SCALE / min(weights)
        self._shares = [int(weight * scale) for weight in weights]

    def counts(self, rows: int) -> tuple[int, ...]:
        """How many of the first `rows` rows come from each stream."""
        counts, total = [], sum(self._shares)
        for share in self._shares:
            later = rows * (total - share) // total
            counts.append(rows - later)
            rows, total = later, total - share
        return tuple(counts)

    def __getitem__(self, row: int) -> tuple[int, int]:
        before, after = self.counts(row), self.counts(row + 1)
        stream = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        return stream, before[stream]

    def rows_within(self, limits: Sequence[int]) -> int:
        """Rows during which no stream is read beyond its limit, to within rounding."""
        total = sum(self._shares)
        pairs = zip(limits, self._shares, strict=True)
        return int(min(limit / (share / total) for limit, share in pairs))
