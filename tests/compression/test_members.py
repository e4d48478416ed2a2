"""Folders in one archive: names, modes and times kept; nothing is unpacked outside."""

import os
import stat
from pathlib import Path

import pytest

from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress, inspect
from llmjax.compression.header import check_members
from llmjax.compression.inputs import open_input
from llmjax.compression.outputs import new_folder
from llmjax.errors import UserError

PLAIN = {"dtype": "float32", "verify": False, "compare": False}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty folder").mkdir()
    (root / "a.txt").write_text("text of a\n" * 9)
    (root / "b.bin").write_bytes(bytes(range(256)))
    (root / "deep" / "er" / "né 🙂 \\:").write_text("deep")
    (root / "deep" / "nothing").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "b.bin").chmod(0o400)
    os.utime(root / "a.txt", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "deep", ns=(1, 1_000_000_000_000_000_000))
    return root


def listing(root: Path):
    return {
        path.relative_to(root).as_posix(): (
            stat.S_IMODE(path.stat().st_mode),
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in root.rglob("*")
    }


def test_a_folder_comes_back(run, tree, tmp_path):
    compress(run, tree, tmp_path / "archive", **PLAIN)
    result = decompress(run, tmp_path / "archive", tmp_path / "out")
    assert result.files == 5
    assert listing(tmp_path / "out") == listing(tree)
    assert [name for name, *_ in inspect(tmp_path / "archive")["files"]] == sorted(listing(tree))
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "archive", "out"}


def test_an_existing_output_is_refused(run, tree, tmp_path):
    compress(run, tree, tmp_path / "archive", **PLAIN)
    for target in (tree, tmp_path / "archive"):
        with pytest.raises(UserError, match="exists"):
            decompress(run, tmp_path / "archive", target)
    with pytest.raises(UserError, match="holds a folder"):
        decompress(run, tmp_path / "archive", "-")
    with pytest.raises(UserError, match="no such folder"):
        decompress(run, tmp_path / "archive", tmp_path / "no" / "out")


def test_links_are_refused(run, tree, tmp_path):
    (tree / "link").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link or device"):
        compress(run, tree, tmp_path / "archive", **PLAIN)
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(
    "name", ["/etc/x", "../x", "a/../../x", "a/./b", "", ".", "a//b", "a/", "x\0y", "..", "/"]
)
def test_paths_outside_the_folder_are_refused(name, tmp_path):
    with (
        pytest.raises(UserError, match="outside its folder"),
        new_folder(str(tmp_path / "out"), [[name, 0o644, 0, 3]]),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "members",
    [
        [["a", 0o644, 0, 1], ["a", 0o644, 0, 1]],
        [["a", 0o644, 0, 1], ["a/b", 0o644, 0, 1]],
        [["a/b", 0o644, 0, 1], ["a", 0o644, 0, 1]],
        [["a", 0o4755, 0, 1]],
        [["a", 0o644, -(2**63) - 1, 1]],
        [["\ud800", 0o644, 0, 1]],
        [["a", 0o644, 0, -2]],
        [["a", 0o644, 0]],
        [[1, 2, 3, 4]],
        {"a": 1},
        "a",
    ],
)
def test_invalid_lists_are_refused(members):
    with pytest.raises(UserError):
        check_members(members)


@pytest.mark.parametrize("data", [b"ab", b"abcde"])
def test_contents_must_match_the_list(data, tmp_path):
    members = [["a", 0o644, 0, 3], ["b", 0o644, 0, 1]]
    with (
        pytest.raises(UserError, match="than its files"),
        new_folder(str(tmp_path / "out"), members) as folder,
    ):
        folder.write(data)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_grows_while_it_is_read(tmp_path):
    path = tmp_path / "in"
    path.write_bytes(b"x" * 10)
    with open_input(str(path)) as source:
        path.write_bytes(b"x" * 11)
        with pytest.raises(UserError, match="changed while it was read"):
            list(source.blocks(4))
