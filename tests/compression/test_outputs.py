"""Outputs: existing files are kept, permissions are not widened, errors name the target."""

import contextlib
import os
import random
import resource
import stat
from types import SimpleNamespace

import pytest

from llmjax.compression import outputs
from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress
from llmjax.compression.inputs import open_input
from llmjax.compression.outputs import check_output, new_file, new_folder
from llmjax.errors import UserError

PLAIN = {"dtype": "float32", "verify": False, "compare": False}


@contextlib.contextmanager
def little_room(size):
    """Files cannot grow beyond this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("links", [True, False])
def test_what_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    if not links:

        def none(*args):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", none)
    path = tmp_path / "out"
    with new_file(str(path), False) as out:
        out.write(b"ours")
    assert path.read_bytes() == b"ours"
    path.unlink()
    with pytest.raises(UserError, match="exists"), new_file(str(path), False):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(UserError, match="exists"), new_folder(str(path), [["a", 0o644, 0, 0]]):
        path.mkdir()
    assert list(path.iterdir()) == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_only_files_are_written_over(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to("/nonexistent/place")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    check_output(str(tmp_path / "file"), True)
    for name in ("dangling", "link"):
        with pytest.raises(UserError, match="exists"):
            check_output(str(tmp_path / name), False)
        with pytest.raises(UserError, match="is a link or device"):
            check_output(str(tmp_path / name), True)
    with pytest.raises(UserError, match="is a link or device"):
        check_output("/dev/null", True)
    with pytest.raises(UserError, match="exists"):
        check_output(str(tmp_path / "folder"), True)


def test_an_input_is_not_its_own_output(run, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in").write_bytes(b"precious " * 50)
    os.link(folder / "in", tmp_path / "same")
    for source in ("folder", "folder/in", "same"):
        for command in (compress, decompress):
            with pytest.raises(UserError, match="is the input"):
                command(run, tmp_path / source, folder / "in", overwrite=True)
    assert (folder / "in").read_bytes() == b"precious " * 50


def test_invalid_names(tmp_path):
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        check_output(str(tmp_path / ("x" * 300)), False)
    with pytest.raises(UserError, match="OUT: no such folder"):
        check_output("", False)
    with pytest.raises(UserError, match="is not a valid name"):
        check_output(str(tmp_path / "a\0b"), False)
    long = "漢" * 85  # 255 bytes, the most that a name may have
    with new_file(str(tmp_path / long), False) as out:
        out.write(b"x")
    assert (tmp_path / long).read_bytes() == b"x"


def test_permissions_are_the_originals(run, tmp_path):
    with umask(0o022):
        for original, archived in (
            (0o600, 0o600),
            (0o664, 0o644),
            (0o755, 0o644),
            (0o400, 0o600),
        ):
            (tmp_path / "in").write_bytes(b"key " * 9)
            (tmp_path / "in").chmod(original)
            compress(run, tmp_path / "in", tmp_path / "a", **PLAIN)
            decompress(run, tmp_path / "a", tmp_path / "out")
            assert (mode(tmp_path / "a"), mode(tmp_path / "out")) == (archived, original & ~0o022)
            for name in ("in", "a", "out"):
                (tmp_path / name).unlink()


def test_a_folder_keeps_its_own_mode_and_time(run, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_bytes(b"x")
    os.utime(root / "old", ns=(0, -86_400_000_000_001))
    root.chmod(0o700)
    os.utime(root, ns=(0, -5_000_000_000))
    compress(run, root, tmp_path / "a", **PLAIN)
    decompress(run, tmp_path / "a", tmp_path / "out")
    assert mode(tmp_path / "out") == 0o700
    assert mode(tmp_path / "a") == 0o600
    assert (tmp_path / "out").stat().st_mtime_ns == -5_000_000_000
    assert (tmp_path / "out" / "old").stat().st_mtime_ns == -86_400_000_000_001


def test_a_full_disk_is_the_targets(run, tmp_path):
    noise = random.Random(0).randbytes(300_000)
    (tmp_path / "folder").mkdir()
    for source in (tmp_path / "in", tmp_path / "folder" / "in"):
        source.write_bytes(noise)
    compress(run, tmp_path / "in", tmp_path / "a", **PLAIN)
    compress(run, tmp_path / "folder", tmp_path / "b", **PLAIN)
    before = {path.name for path in tmp_path.iterdir()}
    with little_room(100_000):
        with pytest.raises(UserError, match="/c: cannot be written: File too large"):
            compress(run, tmp_path / "in", tmp_path / "c", **PLAIN)
        for archive in ("a", "b"):
            with pytest.raises(UserError, match="/c: cannot be written: File too large"):
                decompress(run, tmp_path / archive, tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    def none(*args, **rest):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(outputs.Path, "mkdir", none)
        with (
            pytest.raises(UserError, match="/out: cannot be written: No space left"),
            new_folder(str(tmp_path / "out"), [["a/b", 0o644, 0, 3]]),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_reader_who_has_seen_enough_is_no_mistake(tmp_path):
    (tmp_path / "in").write_bytes(b"x")
    for target in ("-", str(tmp_path / "out")):
        with pytest.raises(BrokenPipeError), open_input(str(tmp_path / "in")), new_file(target, 0):
            raise BrokenPipeError(32, "Broken pipe")


def test_a_reader_of_stdout_who_has_seen_enough(monkeypatch):
    def gone(data):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=SimpleNamespace(write=gone)))
    with pytest.raises(BrokenPipeError), new_file("-", False) as out:
        out.write(b"x")
