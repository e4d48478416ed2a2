"""Line charts as inline SVG: no scripts, no fonts, no files beside the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from llmjax.reporting.axes import Axis
from llmjax.reporting.numbers import tick

Point = tuple[float, float]

BUCKETS = 360
"""Most columns a curve keeps; each holds its lowest and its highest point."""


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      name: what stands at the end of the line; may be empty.
      style: class that the page's style sheet colours.
      points: (step, value) by rising step; a value that is not finite breaks the line.
      dots: whether each point is marked.
    """

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False


def thin(points: Sequence[Point], axis: Axis, buckets: int = BUCKETS) -> list[Point]:
    """At most two points per column of the drawing: its lowest and its highest, in order.

    Peaks and troughs survive however long the run. Breaks (values that are not finite) do too.
    """
    kept: list[Point] = []
    column: list[Point] = []
    here = -1
    for point in points:
        if not math.isfinite(point[1]):
            kept += [*_extremes(column), point]
            column = []
            continue
        there = int(axis.place(point[0]) * buckets)
        if there != here:
            kept += _extremes(column)
            column, here = [], there
        column.append(point)
    return kept + _extremes(column)


def _extremes(column: list[Point]) -> list[Point]:
    if len(column) < 3:
        return column
    return sorted({min(column, key=lambda p: p[1]), max(column, key=lambda p: p[1])})


@dataclass(frozen=True)
class Chart:
    """Curves over steps in one frame.

    Attributes:
      title: what is drawn, for readers who do not see it.
      series: the curves, the most important last (it lies on top).
      x: range of steps.
      y: range of values; what lies beyond is cut off at the frame.
      references: (name, value): dashed levels to compare with.
      width, height: size in units of which the letters are 12 high.
      margin: room for labels to the right of the frame.
      steps: what the numbers below the frame are; empty: the figure's title says it.
    """

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    references: Sequence[tuple[str, float]] = ()
    width: int = 440
    height: int = 210
    margin: int = 16
    steps: str = "step"

    left, top, bottom = 48, 12, 30

    def svg(self, name: str) -> Markup:
        """The drawing; `name` must be unique on the page."""
        left, right, top, base = self.left, self._right(), self.top, self._base()
        # Four units of room, so that dots on the frame's edge stay whole.
        frame = f'x="{left - 4}" y="{top - 4}" width="{right - left + 8}" height="{base - top + 4}"'
        ends = f"{self.x.low:.12g} {self.x.high:.12g} {self.x.log:d}"
        parts = [
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}" data-scale="{left} {right} {top} {base} {ends}" '
            f'data-steps="{self.steps}">',
            f'<clipPath id="{escape(name)}"><rect {frame}/></clipPath>',
            *self._grid(),
            *self._levels(),
            f'<g clip-path="url(#{escape(name)})">',
            *(self._curve(series) for series in self.series),
            "</g>",
            *self._labels(),
            "</svg>",
        ]
        return Markup("\n".join(parts))

    def _right(self) -> int:
        return self.width - self.margin

    def _base(self) -> int:
        return self.height - self.bottom

    def _px(self, step: float) -> float:
        return self.left + self.x.place(step) * (self._right() - self.left)

    def _py(self, value: float) -> float:
        return self._base() - self.y.place(value) * (self._base() - self.top)

    def _grid(self) -> list[str]:
        parts = []
        for value in self.y.ticks((self._base() - self.top) // 30):
            y = f"{self._py(value):.1f}"
            parts.append(f'<path class="grid" d="M{self.left} {y}H{self._right()}"/>')
            parts.append(f'<text class="y" x="{self.left - 7}" y="{y}">{tick(value)}</text>')
        base = self._base()
        parts.append(f'<path class="axis" d="M{self.left} {base}H{self._right()}"/>')
        for value in self.x.ticks((self._right() - self.left) // 60):
            x = f"{self._px(value):.1f}"
            parts.append(f'<path class="axis" d="M{x} {base}v4"/>')
            parts.append(f'<text class="x" x="{x}" y="{base + 18}">{tick(value)}</text>')
        parts.append(f'<text class="y" x="{self.left - 16}" y="{base + 14}">{self.steps}</text>')
        return parts

    def _levels(self) -> list[str]:
        return [
            f'<path class="reference" d="M{self.left} {self._py(level):.1f}H{self._right()}"/>'
            for _, level in self.references
            if 0 <= self.y.place(level) <= 1
        ]

    def _curve(self, series: Series) -> str:
        path, pen, dots = [], "M", []
        for step, value in thin(series.points, self.x):
            if self.x.log and step <= 0:
                continue
            if not math.isfinite(value):
                pen = "M"
                continue
            x, y = f"{self._px(step):.1f}", f"{self._py(value):.1f}"
            path.append(f"{pen}{x} {y}")
            dots.append(f"M{x} {y}h0")  # a round cap makes a dot of a line without length
            pen = "L"
        lone = len(path) == 1
        line = f'<path class="line {series.style}" d="{"".join(path)}"/>'
        marks = f'<path class="dots {series.style}" d="{"".join(dots)}"/>'
        return line + (marks if lone or (series.dots and len(dots) <= 80) else "")

    def _labels(self) -> list[str]:
        wanted = [
            (self._py(last[1]), series.style, series.name)
            for series in self.series
            if series.name and (last := _last(series.points)) and 0 <= self.y.place(last[1]) <= 1
        ]
        wanted += [
            (self._py(level), "reference", name)
            for name, level in self.references
            if 0 <= self.y.place(level) <= 1
        ]
        wanted.sort()
        places = spread([y for y, _, _ in wanted], 15, self.top + 4, self._base() - 4)
        return [
            f'<text class="label {style}" x="{self._right() + 8}" y="{y:.1f}">{escape(name)}</text>'
            for y, (_, style, name) in zip(places, wanted, strict=True)
        ]


def _last(points: Sequence[Point]) -> Point | None:
    return next((p for p in reversed(points) if math.isfinite(p[1])), None)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones (rising), at least `gap` apart, inside the range if they fit."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, low if not places else places[-1] + gap))
    for n in reversed(range(len(places))):
        ceiling = high if n == len(places) - 1 else places[n + 1] - gap
        places[n] = min(places[n], ceiling)
    return places
