"""Curves before they are drawn: thinned, smoothed, described, and as JSON for the page's script."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from llmjax.reporting.charts import Axis, Point, Series, thin
from llmjax.reporting.format import tick

SMOOTH_FROM = 60
"""Minimum points for drawing a noisy curve faintly, with its running mean on top."""

FINENESS = 500
"""Inverse relative resolution of `condense`."""


def finite(points: Sequence[Point]) -> list[Point]:
    """Returns the points with finite values."""
    return [point for point in points if math.isfinite(point[1])]


def steps_axis(points: Sequence[Point]) -> Axis | None:
    """Returns an axis from zero to the last step."""
    return Axis(0.0, max(1.0, max(step for step, _ in points))) if points else None


def smoothed(name: str, points: Sequence[Point]) -> tuple[Series, ...]:
    """Returns a curve; if it has many points, drawn faintly behind its running mean."""
    kept = finite(points)
    if len(kept) < SMOOTH_FROM:
        return (Series(name, "train", points),)
    mean = condense(running_mean(kept))
    return Series("", "raw", condense(points)), Series(name, "train", mean)


def condense(points: Sequence[Point]) -> list[Point]:
    """Reduces a long curve to a few thousand points, keeping peaks, troughs, gaps and ends.

    Reduces each block of i / FINENESS points at index i to its lowest and highest point: finer than
    the drawing, with linear and with logarithmic steps.
    """
    kept: list[Point] = []
    start = 0
    while start < len(points):
        stop = start + max(1, start // FINENESS)
        block = points[start:stop]
        valid = finite(block)
        extremes = {min(valid, key=_value), max(valid, key=_value)} if valid else set()
        gap = next((point for point in block if not math.isfinite(point[1])), None)
        kept += sorted({*extremes, gap} if gap else extremes, key=_step)
        start = stop
    return [*kept, points[-1]] if points and kept[-1] != points[-1] else kept


def _step(point: Point) -> float:
    return point[0]


def _value(point: Point) -> float:
    return point[1]


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Averages each value over a window of 3 % of its index to either side.

    As the window grows with the index, the steep start is not blurred and the flat end is smooth.
    """
    sums = [0.0, *itertools.accumulate(value for _, value in points)]
    means = []
    for index, (step, _) in enumerate(points):
        reach = round(0.03 * index)
        low, high = index - reach, min(index + reach + 1, len(points))
        means.append((step, (sums[high] - sums[low]) / (high - low)))
    return means


def describe(title: str, curves: Mapping[str, Sequence[Point]], x_label: str = "step") -> str:
    """Describes a chart for screen readers."""
    parts = []
    for name, points in curves.items():
        if valid := finite(points):
            (start, first), (end, final) = valid[0], valid[-1]
            low, high = min(map(_value, valid)), max(map(_value, valid))
            parts.append(
                f"{name} from {tick(first)} at {x_label} {start:,.0f} to {tick(final)} at "
                f"{x_label} {end:,.0f}, between {tick(low)} and {tick(high)}".strip()
            )
    return f"{title}: {'; '.join(parts)}"


def values_json(series: Sequence[Series], steps: Axis) -> Markup:
    """Returns the curves as JSON, thinned for both linear and logarithmic steps."""
    log = replace(steps, low=min(1.0, steps.high / 2), log=True)
    curves = []
    for curve in series:
        if curve.style == "raw":
            continue
        points = finite(curve.points)
        kept = sorted({*thin(points, steps), *thin([p for p in points if p[0] > 0], log)})
        rounded = [[step, float(f"{value:.4g}")] for step, value in kept]
        curves.append({"name": curve.name, "points": rounded})
    return Markup(json.dumps(curves, separators=(",", ":")).replace("<", "\\u003c"))
