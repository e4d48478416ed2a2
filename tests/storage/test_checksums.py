"""Checksums of JSON objects and of folders detect every change."""

import json

import pytest

from llmjax.errors import UserError
from llmjax.storage.checksums import (
    CHECKSUM,
    MANIFEST,
    check_checksum,
    find_damage,
    with_checksum,
    write_manifest,
)

DOCUMENT = {"b": [1, 2.5, None], "a": {"é": True}}


def test_an_object_comes_back_without_its_checksum():
    text = json.dumps(with_checksum(DOCUMENT), indent=3, ensure_ascii=False)
    assert check_checksum(json.loads(text), "x") == DOCUMENT
    assert with_checksum(with_checksum(DOCUMENT)) == with_checksum(DOCUMENT)


def test_one_without_a_checksum_is_taken_as_it_is():
    assert check_checksum(DOCUMENT, "x") == DOCUMENT


@pytest.mark.parametrize(
    "change",
    [{"b": [1, 2.5, 0]}, {"new": 1}, {CHECKSUM: None}, {"a": {"é": 1}}, {"a": {"e": True}}],
)
def test_any_other_value_is_refused(change):
    with pytest.raises(UserError, match=f'x: was changed .* remove "{CHECKSUM}"'):
        check_checksum(with_checksum(DOCUMENT) | change, "x")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "data").write_bytes(bytes(range(50)))
    (tmp_path / "top.json").write_text("{}")
    (tmp_path / "late").write_text("later")
    write_manifest(tmp_path, ["late"])
    return tmp_path


def test_a_folder_as_it_was_written(folder):
    assert find_damage(folder, without=["late"]) is None
    (folder / "late").write_text("changed, and left out")
    (folder / "notes.txt").write_text("a user's own")
    (folder / "part" / ".hidden").write_text("the system's own")
    assert find_damage(folder, without=["late"]) is None


def test_every_flipped_bit_is_noticed(folder):
    for path in (folder / "part" / "data", folder / "top.json", folder / MANIFEST):
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            broken = bytearray(content)
            broken[bit // 8] ^= 1 << bit % 8
            path.write_bytes(broken)
            if find_damage(folder) is None:  # then it was a blank of the JSON
                assert json.loads(broken) == json.loads(content)
        path.write_bytes(content)
    assert find_damage(folder) is None


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "{", "null", '{"part/data": 3}', '{"part/data": [50, true]}', "[" * 10_000],
)
@pytest.mark.parametrize("item", [None, "part"])
def test_an_empty_or_broken_list_is_damage(folder, content, item):
    (folder / MANIFEST).write_text(content)
    assert MANIFEST in find_damage(folder, item)


def test_what_is_not_listed_is_damage(folder):
    (folder / "part" / "more").write_text("")
    assert find_damage(folder) == "part/more is not listed in its checksums.json"
    (folder / "part" / "more").unlink()
    (folder / "part" / "data").unlink()
    assert find_damage(folder) == "data cannot be read: No such file or directory"
    assert find_damage(folder, "none") == "its checksums.json lists nothing of none"
