"""Files are written atomically."""

import pytest

from llmjax.errors import UserError
from llmjax.storage.cache_folders import (
    build_once,
    make_folder,
    write_file,
)


def test_a_folder_appears_only_when_it_is_finished(tmp_path):
    target = tmp_path / "deep" / "folder"

    def fill(place):
        (place / "a").write_text("a")
        assert not target.exists()

    make_folder(target, fill)
    assert (target / "a").read_text() == "a"
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_a_failure_leaves_nothing(tmp_path):
    def fill(place):
        (place / "a").write_text("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / "folder", fill)
    assert list(tmp_path.iterdir()) == []


def test_of_two_makers_the_first_wins(tmp_path):
    target = tmp_path / "folder"

    def slow(place):
        (place / "a").write_text("second")
        make_folder(target, lambda other: (other / "a").write_text("first") and None)

    make_folder(target, slow)
    assert (target / "a").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_places_are_user_errors(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written: "):
        make_folder(tmp_path / "file" / "folder", lambda place: None)
    with pytest.raises(UserError, match="cannot be written: "):
        write_file(tmp_path / "file" / "other", b"")


def test_a_full_disk_is_a_user_error(tmp_path):
    def fill(place):
        with open("/dev/full", "wb") as file:
            file.write(b"x" * 100_000)

    with pytest.raises(UserError, match="No space left"):
        make_folder(tmp_path / "folder", fill)


def test_leftovers_of_killed_makers_are_removed_by_the_next(tmp_path):
    for name in (".folder.abc.tmp", ".folder2.abc.tmp"):
        (tmp_path / name).mkdir()
    build_once(tmp_path / "folder", lambda place: None)
    folders = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert folders == [".folder2.abc.tmp", "folder"]
    build_once(tmp_path / "folder", lambda place: pytest.fail("is there already"))


def test_a_file_is_replaced_whole(tmp_path):
    write_file(tmp_path / "deep" / "file", b"one")
    write_file(tmp_path / "deep" / "file", b"two")
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert len(list((tmp_path / "deep").iterdir())) == 1
