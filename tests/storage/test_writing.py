"""Atomic writes, and the paths that checkpoints can be written to."""

import os
import stat

import pytest

from llmjax.errors import UserError
from llmjax.storage.writing import check_utf8, new_folder_mode, write_atomically


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o22, 0o644, 0o755), (0o7, 0o660, 0o770)])
def test_permissions_are_those_of_the_umask(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", "text")
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == file
        assert new_folder_mode() == folder
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


def test_an_old_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "a").write_text("old")
    write_atomically(tmp_path / "a", b"\xff")
    assert (tmp_path / "a").read_bytes() == b"\xff"
    assert os.listdir(tmp_path) == ["a"]


def test_the_longest_names_can_be_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), "text")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_names_of_valid_utf8_pass(tmp_path):
    for name in ("café 🙂", "a\nb", "", ".", "x" * 300):
        check_utf8(tmp_path / name)


@pytest.mark.parametrize("name", [os.fsdecode(b"a\xff"), os.fsdecode(b"a\xff/b"), "a\0b"])
def test_others_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"not UTF-8, and checkpoints|has a NUL"):
        check_utf8(tmp_path / name)


def test_the_folders_above_count(tmp_path, monkeypatch):
    folder = os.path.join(tmp_path, os.fsdecode(b"a\xff"))
    os.mkdir(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="rename it, or the folder above it"):
        check_utf8("run")
