"""Layouts are inverse in both directions, for whole parameters and parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.hf.names import Layout, Segment

SIZES = {"d": 6, "e": 6, "h": 4, "n": 2, "k": 3, "f": 5, "v": 7, "p": 8, "t": 2, "b": 9, "i": 1}
SIZES |= {"w": 4, "c": 5, "q": 7, "g": 3, "s": 2, "a": 4, "m": 3, "u": 5}
SIZES |= {"lh": 2, "l": 3, "r": 2, "lw": 5, "y": 10, "lhl": 6, "lhy": 20, "z": 4}
LAYOUTS = sorted(
    {row.layout for family in FAMILIES.values() for row in family.table.rows},
    key=lambda layout: (layout.notation, str(layout.segment)),
)


def filled(layout):
    """A tensor with distinct elements."""
    shape = layout.shape(SIZES)
    return np.arange(np.prod(shape)).reshape(shape)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_what_is_read_is_written_back_where_it_was(layout):
    tensor = filled(layout)
    param = layout.read(SIZES, None, lambda index: tensor[index])
    segment = layout.segment and layout.segment.sizes(SIZES)[layout.segment.number]
    assert param.shape == tuple(SIZES.get(axis, segment) for axis in layout.param_axes)
    assert len(np.unique(param)) == param.size
    out = np.full(tensor.shape, -1)
    layout.write(SIZES, param, out)
    assert np.array_equal(out[out >= 0], tensor[out >= 0])
    assert (out >= 0).sum() == param.size


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_part_is_that_part_of_the_whole(data):
    layout = data.draw(st.sampled_from(LAYOUTS))
    tensor, fetched = filled(layout), 0

    def fetch(index):
        nonlocal fetched
        part = tensor[index]
        fetched += part.size
        return part

    param = layout.read(SIZES, None, lambda index: tensor[index])
    bounds = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
              for n in param.shape]  # fmt: skip
    index = tuple(slice(*pair) for pair in bounds)
    assert np.array_equal(layout.read(SIZES, index, fetch), param[index])
    assert fetched <= tensor.size


@pytest.mark.parametrize(
    ("notation", "number", "expected"),
    [
        ("(j h k) d -> d h k", 1, [6, 7, 8, 9, 10, 11]),  # all keys stand together
        ("(h j k) d -> d h k", 1, [3, 4, 5, 12, 13, 14]),  # within each head
    ],
)
def test_which_rows_of_a_fused_tensor_are_the_keys(notation, number, expected):
    sizes = {"h": 2, "k": 3, "d": 1}
    layout = Layout(notation, Segment("j", ("1", "1", "1"), number))
    tensor = np.arange(18).reshape(18, 1)
    assert layout.read(sizes, None, lambda index: tensor[index]).ravel().tolist() == expected


def test_no_more_is_fetched_than_a_device_needs():
    layout = Layout("(x k) d -> d x k", Segment("x", ("h", "n", "n"), 1))
    fetched = []

    def fetch(index):
        fetched.append(index)
        return np.zeros([cut.stop - cut.start for cut in index])

    layout.read(SIZES, (slice(2, 4), slice(1, 2), slice(0, 3)), fetch)
    assert fetched == [(slice(15, 18), slice(2, 4))]
