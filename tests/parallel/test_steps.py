"""Partitions between two: each step gathers or scatters over one mesh axis."""

from jax.sharding import PartitionSpec as P

from llmjax.parallel.steps import gather_steps, leading_steps, scatter_steps

STEPWISE = ("x", "y", "z")
ROWS = (("data", "x", "y", "z"), "sequence")


def test_gathers_go_from_the_innermost_axis_outwards():
    stored = P(None, ("x", "y", "z"), "tensor")
    assert gather_steps(stored, P(None, None, "tensor"), STEPWISE) == [
        P(None, ("x", "y"), "tensor"),
        P(None, "x", "tensor"),
        P(None, None, "tensor"),
    ]


def test_other_axes_are_gathered_at_once():
    assert gather_steps(P(("data", "fsdp")), P(None), ()) == [P(None)]
    assert gather_steps(P(("data", "x")), P(None), STEPWISE) == [P(None)]
    assert gather_steps(P("x", "y"), P("y", "x"), STEPWISE) == [P("y", "x")], "none is gathered"


def test_scatters_go_from_the_outermost_axis_inwards():
    assert scatter_steps(ROWS, P(("x", "y", "z"), "tensor"), STEPWISE) == [
        P(None, "tensor", unreduced={"data", "x", "y", "z", "sequence"}),
        P("x", "tensor", unreduced={"data", "y", "z", "sequence"}),
        P(("x", "y"), "tensor", unreduced={"data", "z", "sequence"}),
        P(("x", "y", "z"), "tensor", unreduced={"data", "sequence"}),
        P(("x", "y", "z"), "tensor"),
    ]


def test_a_sum_that_is_not_scattered_is_one_step():
    everything = frozenset({"data", "x", "y", "z", "sequence"})
    assert scatter_steps(ROWS, P("tensor"), STEPWISE) == [
        P("tensor", unreduced=everything),
        P("tensor"),
    ]


def test_leading_steps_move_one_axis_at_a_time():
    assert leading_steps(P("x", ("y", "z")), 2, ("data", "x", "y", "z")) == [
        P(("x",), ("y", "z")),
        P(("x", "z"), ("y",)),
        P(("x", "z", "y"), ()),
        P(("x", "z", "y", "data"), ()),
    ]
