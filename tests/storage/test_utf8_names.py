"""Paths that checkpoints can be written to."""

import os

import pytest

from llmjax.errors import UserError
from llmjax.storage.writing import check_utf8


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
