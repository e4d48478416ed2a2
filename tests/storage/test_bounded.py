"""Bounded reads."""

import os

import pytest

from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes, read_text


def test_a_file_of_just_the_limit_is_read_and_one_byte_more_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_bytes(path, 100) == b"x" * 100
    with pytest.raises(UserError, match=r"is 100 bytes, and at most 99 bytes are read"):
        read_bytes(path, 99)


def test_a_sparse_file_of_a_terabyte_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "file"
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(UserError, match=r"is 1024 GiB, and at most 64 MiB are read"):
        read_bytes(path, 2**26)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is not a regular file"):
        read_bytes(tmp_path / "fifo", 100)
    with pytest.raises(UserError, match=r"not a regular file|Is a directory"):
        read_bytes(tmp_path, 100)
    with pytest.raises(UserError, match="not a regular file"):
        read_bytes("/dev/zero", 100)


def test_missing_and_impossible_names_are_one_line(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_bytes(tmp_path / "none", 100)
    with pytest.raises(UserError, match="name too long"):
        read_bytes(tmp_path / ("n" * 300), 100)
    with pytest.raises(UserError, match="null"):
        read_bytes("a\0b", 100)


def test_text_loses_its_byte_order_mark_and_bad_bytes_are_placed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(path, 100) == "abc"
    path.write_bytes(b"abc\xff")
    with pytest.raises(UserError, match="byte 0xff at offset 3"):
        read_text(path, 100)
