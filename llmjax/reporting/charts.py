"""Line charts as inline SVG, without scripts, fonts or other files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from llmjax.reporting.format import tick

Point = tuple[float, float]

BUCKETS = 360
"""Maximum columns of a curve; each keeps its lowest and highest point."""

_MULTIPLES: tuple[tuple[float, ...], ...] = (
    (1, 1.5, 2, 3, 4, 5, 6, 8),
    (1, 2, 3, 5),
    (1, 2, 5),
    (1, 3),
    (1,),
)


DIAMOND = "m-5 0l5 -5l5 5l-5 5z"
"""Path of a mark around a point; that of a dot is a line of zero length with round caps."""


@dataclass(frozen=True)
class Axis:
    """A range of values on an axis; a logarithmic axis needs low > 0."""

    low: float
    high: float
    log: bool = False

    def position(self, value: float) -> float:
        """Returns the relative position of a value: 0 at the low end, 1 at the high end."""
        if self.log:
            low, high, value = (math.log(max(v, 1e-300)) for v in (self.low, self.high, value))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)

    def ticks(self, most: int) -> list[float]:
        """Returns round values inside the range, about `most` of them."""
        if not self.log:
            return _linear_ticks(self.low, self.high, most)
        for multiples in _MULTIPLES:
            ticks = _log_ticks(self.low, self.high, multiples)
            if len(ticks) <= most:
                return ticks if len(ticks) > 2 else _linear_ticks(self.low, self.high, most)
        return ticks[:: math.ceil(len(ticks) / most)]


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _log_ticks(low: float, high: float, multiples: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{m}e{d}") for d in decades for m in multiples]
    return [value for value in ticks if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def span(values: Sequence[float], *, log: bool = False, pad: float = 0.06) -> Axis | None:
    """Returns a range around all finite values, with a margin; None if there are none."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if log:
        margin = (high / low) ** pad if high > low else 1.5
        return Axis(low / margin, high * margin, log=True)
    margin = (high - low) * pad or abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin)


@dataclass(frozen=True)
class Series:
    """A curve.

    Attributes:
      name: label at the end of the line; may be empty.
      style: CSS class.
      points: (step, value) in order of steps; a non-finite value breaks the line.
      dots: whether to mark each point.
      line: whether to join the points; if not, each is marked by a diamond.
    """

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False
    line: bool = True


def thin(points: Sequence[Point], axis: Axis, buckets: int = BUCKETS) -> list[Point]:
    """Keeps the lowest and the highest point of each column of the drawing, in order.

    Preserves peaks, troughs and gaps (non-finite values), however long the run.
    """
    kept: list[Point] = []
    column: list[Point] = []
    current = -1
    for point in points:
        if not math.isfinite(point[1]):
            kept += [*_extremes(column), point]
            column = []
            continue
        index = int(axis.position(point[0]) * buckets)
        if index != current:
            kept += _extremes(column)
            column, current = [], index
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
      title: description for screen readers.
      series: the curves, the most important last (drawn on top).
      x: range of steps.
      y: range of values; values outside are clipped.
      references: (name, value) of dashed reference levels.
      marks: steps to mark by a dashed vertical line.
      width, height: size in SVG units; the font size is 12.
      margin: space for labels to the right of the frame.
      x_label: what the horizontal axis measures.
      y_label: the unit of the vertical axis, written above it.
    """

    title: str
    series: Sequence[Series]
    x: Axis
    y: Axis
    references: Sequence[tuple[str, float]] = ()
    marks: Sequence[float] = field(default=(), kw_only=True)
    width: int = 440
    height: int = 240
    margin: int = 16
    x_label: str = "step"
    y_label: str = ""

    left, top, bottom = 48, 30, 44

    def svg(self, name: str) -> Markup:
        """Renders the chart; `name` must be unique on the page."""
        left, right, top, base = self.left, self._right(), self.top, self._base()
        # Four units of margin, so that dots on the edge of the frame are not clipped.
        frame = f'x="{left - 4}" y="{top - 4}" width="{right - left + 8}" height="{base - top + 4}"'
        ends = f"{self.x.low:.12g} {self.x.high:.12g} {self.x.log:d}"
        parts = [
            f'<svg class="chart" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}" data-scale="{left} {right} {top} {base} {ends}" '
            f'data-x="{escape(self.x_label)}">',
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
        return self.left + self.x.position(step) * (self._right() - self.left)

    def _py(self, value: float) -> float:
        return self._base() - self.y.position(value) * (self._base() - self.top)

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
        middle = (self.left + self._right()) / 2
        parts.append(
            f'<text class="x title" x="{middle:.0f}" y="{base + 38}">{escape(self.x_label)}</text>'
        )
        parts.append(f'<text class="title" x="4" y="{self.top - 14}">{escape(self.y_label)}</text>')
        return parts

    def _levels(self) -> list[str]:
        return [
            f'<path class="reference" d="M{self.left} {self._py(level):.1f}H{self._right()}"/>'
            for _, level in self.references
            if 0 <= self.y.position(level) <= 1
        ] + [
            f'<path class="reference" d="M{self._px(step):.1f} {self.top}V{self._base()}"/>'
            for step in self.marks
            if 0 <= self.x.position(step) <= 1
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
            dots.append(f"M{x} {y}h0" if series.line else f"M{x} {y}{DIAMOND}")
            pen = "L"
        if not series.line:
            return f'<path class="diamonds {series.style}" d="{"".join(dots)}"/>'
        line = f'<path class="line {series.style}" d="{"".join(path)}"/>'
        marks = f'<path class="dots {series.style}" d="{"".join(dots)}"/>'
        return line + (marks if len(path) == 1 or (series.dots and len(dots) <= 80) else "")

    def _labels(self) -> list[str]:
        labels = [
            (self._py(last[1]), series.style, series.name)
            for series in self.series
            if series.name and (last := _last(series.points)) and 0 <= self.y.position(last[1]) <= 1
        ]
        labels += [
            (self._py(level), "reference", name)
            for name, level in self.references
            if 0 <= self.y.position(level) <= 1
        ]
        labels.sort()
        positions = spread([y for y, _, _ in labels], 15, self.top + 4, self._base() - 4)
        return [
            f'<text class="label {style}" x="{self._right() + 8}" y="{y:.1f}">{escape(name)}</text>'
            for y, (_, style, name) in zip(positions, labels, strict=True)
        ]


def _last(points: Sequence[Point]) -> Point | None:
    return next((p for p in reversed(points) if math.isfinite(p[1])), None)


def spread(targets: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves sorted positions at least `gap` apart, and into the range if they fit."""
    positions: list[float] = []
    for target in targets:
        positions.append(max(target, low if not positions else positions[-1] + gap))
    for n in reversed(range(len(positions))):
        ceiling = high if n == len(positions) - 1 else positions[n + 1] - gap
        positions[n] = min(positions[n], ceiling)
    return positions
