"""The evaluations of a run, by the validation examples that they scored.

While training, a run may score a subset of its validation set (evaluation.max_tokens), and at the
end all of it. Results on different examples are not comparable, so that a curve needs one subset.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmjax.reporting.records import Line, main_metric, number


@dataclass(frozen=True)
class Validation:
    """Evaluations split by what they scored.

    Attributes:
      curve: those of the subset that was scored most often; of two, the smaller one.
      larger: those of the largest subset, if it is another one; usually the whole set, scored at
        the end.
      omitted: the number of evaluations of yet other subsets.
    """

    curve: Sequence[Line]
    larger: Sequence[Line]
    omitted: int


def by_subset(evals: Sequence[Line]) -> Validation:
    """Splits the evaluations of a run; those with the same number of bytes are of one subset."""
    times = Counter(map(subset_bytes, evals))
    if not times:
        return Validation([], [], 0)
    most = min(times, key=lambda size: (-times[size], size))
    largest = max(times)
    curve = [line for line in evals if subset_bytes(line) == most]
    larger = [line for line in evals if subset_bytes(line) == largest > most]
    return Validation(curve, larger, len(evals) - len(curve) - len(larger))


def latest_subset(evals: Sequence[Line]) -> list[Line]:
    """Returns the evaluations of the same subset as the last successful one."""
    finite = [line for line in evals if math.isfinite(number(line, main_metric(evals)))]
    size = subset_bytes(finite[-1]) if finite else 0.0
    return [line for line in evals if subset_bytes(line) == size]


def subset_bytes(line: Line) -> float:
    """Returns the bytes of validation text that an evaluation scored; 0 if not recorded."""
    size = number(line, "heldout_bytes")
    return size if math.isfinite(size) else 0.0


def larger_name(validation: Validation, whole: float | None) -> str:
    """Returns the label of the evaluations of the largest subset.

    Args:
      validation: the evaluations of a run.
      whole: bytes of the validation set; None if unknown.
    """
    is_part = whole and validation.larger and subset_bytes(validation.larger[-1]) < whole
    return "larger part" if is_part else "full set"
