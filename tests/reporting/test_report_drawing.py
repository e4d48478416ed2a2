"""Axes, thinning, charts: nothing that was measured is lost, nothing leaves the frame."""

import itertools
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from llmjax.reporting.charts import BUCKETS, Axis, Chart, Series, span, spread, thin
from llmjax.reporting.series import FINENESS, condense, running_mean

values = st.floats(-1e30, 1e30, allow_nan=False)
positive = st.floats(1e-12, 1e12)


@given(st.lists(values, min_size=1), st.integers(2, 12))
def test_linear_ticks_lie_inside_and_rise(numbers, most):
    axis = span(numbers)
    ticks = axis.ticks(most)
    tolerance = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - tolerance <= tick <= axis.high + tolerance for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= most + 1


@given(st.lists(positive, min_size=1), st.integers(3, 12))
def test_log_ticks_lie_inside_and_rise(numbers, most):
    axis = span(numbers, log=True)
    ticks = axis.ticks(most)
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= most + 1


@given(st.lists(values, min_size=1))
def test_a_span_holds_every_value(numbers):
    axis = span(numbers)
    assert all(0 <= axis.position(number) <= 1 for number in numbers)


def test_a_span_of_nothing_finite_is_none():
    assert span([math.nan, math.inf]) is None
    assert span([0.0, -1.0], log=True) is None


def test_log_axis_places_by_ratio():
    assert math.isclose(Axis(1, 100, log=True).position(10), 0.5)
    assert Axis(1, 100, log=True).position(0) < 0


@given(
    st.lists(st.one_of(values, st.just(math.nan)), min_size=1, max_size=3000), st.integers(1, 50)
)
def test_thinning_keeps_peaks_troughs_and_ends(numbers, buckets):
    points = [(float(step), value) for step, value in enumerate(numbers)]
    kept = thin(points, Axis(0, len(points)), buckets)
    finite = [value for value in numbers if math.isfinite(value)]
    shown = [value for _, value in kept if math.isfinite(value)]
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert set(kept) <= set(points), "thinning invents nothing"
    if finite:
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    breaks = sum(math.isnan(value) for value in numbers)
    assert sum(math.isnan(value) for _, value in kept) == breaks
    assert len(shown) <= 2 * (buckets + 1 + breaks)


@given(st.lists(st.one_of(values, st.just(math.nan)), max_size=3000))
def test_condensing_keeps_peaks_troughs_breaks_and_ends(numbers):
    points = [(float(step), value) for step, value in enumerate(numbers)]
    kept = condense(points)
    finite = [value for value in numbers if math.isfinite(value)]
    shown = [value for _, value in kept if math.isfinite(value)]
    assert [step for step, _ in kept] == sorted({step for step, _ in kept})
    assert set(kept) <= set(points)
    assert kept[:1] + kept[-1:] == points[:1] + points[-1:]
    assert (min(shown, default=0), max(shown, default=0)) == (
        min(finite, default=0),
        max(finite, default=0),
    )
    assert len(shown) == len(finite) or len(points) > 2 * FINENESS
    assert (len(kept) > len(shown)) == (len(points) > len(finite))


def test_condensing_bounds_a_long_run():
    points = [(float(step), math.sin(step)) for step in range(1_000_000)]
    assert len(condense(points)) < 20 * FINENESS


def test_thinning_bounds_a_long_run():
    points = [(float(step), math.sin(step)) for step in range(100_000)]
    assert len(thin(points, Axis(0, 100_000))) <= 2 * (BUCKETS + 1)


@given(st.lists(values, min_size=1, max_size=500))
def test_running_mean_stays_between_the_extremes(numbers):
    means = running_mean([(float(step), value) for step, value in enumerate(numbers)])
    tolerance = 1e-9 * max(1.0, *map(abs, numbers)) * len(numbers)
    assert [step for step, _ in means] == list(range(len(numbers)))
    assert all(min(numbers) - tolerance <= mean <= max(numbers) + tolerance for _, mean in means)


@given(st.lists(st.floats(0, 300), max_size=8))
def test_labels_keep_their_distance(targets):
    positions = spread(sorted(targets), 15, 0, 300)
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(positions))
    assert all(-1e-9 <= position <= 300 for position in positions)


def chart(points, **options):
    return Chart("A curve", [Series("train", "train", points)], Axis(0, 10), Axis(0, 1), **options)


def test_a_gap_breaks_the_line():
    svg = chart([(0, 0.1), (1, 0.2), (2, math.nan), (3, 0.3), (4, 0.4)]).svg("x")
    (path,) = re.findall(r'class="line train" d="([^"]+)"', svg)
    assert [c for c in path if c in "ML"] == ["M", "L", "M", "L"]
    assert "nan" not in svg


def test_a_single_point_is_a_dot():
    assert 'class="dots train"' in chart([(5, 0.5)]).svg("x")
    assert 'class="dots' not in chart([(5, 0.5), (6, 0.5)]).svg("x")


def test_points_land_where_the_axes_say():
    svg = chart([(0, 0.0), (10, 1.0)], width=440, height=210, margin=16).svg("x")
    (path,) = re.findall(r'class="line train" d="([^"]+)"', svg)
    assert path == "M48.0 166.0L424.0 30.0"


def test_both_axes_are_labelled():
    svg = chart([(0, 0.5)], x_label="tokens", y_label="<nats>").svg("x")
    assert re.findall(r'class="[^"]*title"[^>]*>([^<]*)<', svg) == ["tokens", "&lt;nats&gt;"]


def test_points_without_a_line_are_diamonds():
    series = Series("full", "full", [(1, 0.5), (2, 0.7)], line=False)
    svg = Chart("A mark", [series], Axis(0, 10), Axis(0, 1)).svg("x")
    (path,) = re.findall(r'class="diamonds full" d="([^"]+)"', svg)
    assert (path.count("M"), path.count("z")) == (2, 2)
    assert 'class="line' not in svg


def test_names_are_escaped():
    hostile = "<script>&\"'"
    svg = Chart(hostile, [Series(hostile, "t", [(0, 0.5)])], Axis(0, 1), Axis(0, 1)).svg("x")
    assert "<script>" not in svg
    assert svg.count("&lt;script&gt;") == 2


def test_references_outside_the_frame_are_left_out():
    svg = chart([(0, 0.5)], references=[("near", 0.7), ("far", 7.0)]).svg("x")
    assert "near" in svg
    assert "far" not in svg
    assert svg.count('class="reference"') == 1
