"""Numbers near one another: what is packed is unpacked, in few bits, and nonsense is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjax.compression.archive import FrameReader, varint
from llmjax.compression.frames import pack_integers, unpack_integers
from llmjax.errors import UserError


@given(st.lists(st.integers(0, 2**26), min_size=1, max_size=70))
def test_what_is_packed_is_unpacked(numbers):
    data = pack_integers(numbers)
    cursor = FrameReader(data + b"rest")
    assert unpack_integers(cursor, len(numbers)) == numbers
    assert cursor.take(4) == b"rest"


def test_they_take_the_bits_of_their_differences():
    assert len(pack_integers([700 + n for n in range(64)])) == 2 + 1 + 64 * 6 // 8
    assert len(pack_integers([5])) == len(pack_integers([5] * 900)) == 2


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="more than the format allows"):
        unpack_integers(FrameReader(varint(1) + bytes([33]) + bytes(900)), 4)
    with pytest.raises(UserError, match="cut short"):
        unpack_integers(FrameReader(varint(1) + bytes([9, 0, 0])), 4)
    with pytest.raises(UserError, match="cut short"):
        unpack_integers(FrameReader(varint(1)), 4)
