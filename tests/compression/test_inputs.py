"""What is read: files that change or cannot be read, pipes, files without a size; nothing else."""

import itertools
import os
import threading

import pytest

from llmjax.compression.compress import compress
from llmjax.compression.decompress import decompress, inspect
from llmjax.compression.inputs import list_folder, open_input, open_seekable
from llmjax.errors import UserError

PLAIN = {"dtype": "float32", "verify": False, "compare": False}


@pytest.fixture
def two(tmp_path):
    root = tmp_path / "two"
    root.mkdir()
    (root / "a").write_bytes(b"a" * 50)
    (root / "b").write_bytes(b"b" * 50)
    return root


def pipe(tmp_path, content):
    """A named pipe that gives this content once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=[content], daemon=True).start()
    return path


def test_a_folder_that_cannot_be_read_is_named(two, monkeypatch):
    (two / "secret").mkdir()
    (two / "secret" / "key").write_bytes(b"x")
    scan = os.scandir

    def refusing(path):
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="secret: cannot be read: Permission denied"):
        list_folder(two)


def test_bytes_that_move_between_files(two):
    with open_input(str(two)) as source:
        (two / "a").write_bytes(b"a" * 60)
        (two / "b").write_bytes(b"b" * 40)
        with pytest.raises(UserError, match="a: changed while it was read"):
            list(source.blocks(8))


def test_a_file_that_keeps_growing_is_not_read_forever(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 10)

    def follow(source):
        with open(path, "ab", buffering=0) as more:
            for _ in itertools.islice(source.blocks(4), 50):
                more.write(b"y" * 8)

    with open_input(str(path)) as source, pytest.raises(UserError, match="changed while"):
        follow(source)
    assert path.stat().st_size < 100


def test_a_file_that_is_gone(two):
    with open_input(str(two)) as source:
        (two / "b").unlink()
        with pytest.raises(UserError, match="b: No such file"):
            list(source.blocks(8))


def test_what_others_raise_is_not_blamed_on_the_input(two):
    for path in (two, two / "a"):
        with pytest.raises(BrokenPipeError), open_input(str(path)):
            raise BrokenPipeError(32, "Broken pipe")


def test_a_pipe_is_compressed_and_decompressed(run, tmp_path):
    compress(run, pipe(tmp_path, b"through a pipe"), tmp_path / "archive", **PLAIN)
    (tmp_path / "pipe").unlink()
    again = pipe(tmp_path, (tmp_path / "archive").read_bytes())
    assert inspect(again)["size"] == 14
    again.unlink()
    decompress(run, pipe(tmp_path, (tmp_path / "archive").read_bytes()), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"through a pipe"


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="there is no /proc")
def test_a_file_that_says_it_is_empty():
    with open_input("/proc/version") as source, open("/proc/version", "rb") as file:
        assert b"".join(source.blocks(16)) == file.read() != b""


def test_no_name_is_not_the_current_folder(two, monkeypatch):
    monkeypatch.chdir(two)
    for opening in (open_input, open_seekable):
        with pytest.raises(UserError, match="IN: is empty"), opening(""):
            pass


def test_an_archive_is_for_those_who_may_read_all_of_it(two):
    (two / "a").chmod(0o664)
    (two / "b").chmod(0o644)
    with open_input(str(two / "a")) as source:
        assert source.common_mode == 0o664
    two.chmod(0o755)
    with open_input(str(two)) as source:
        assert source.common_mode == 0o644
    (two / "b").chmod(0o600)
    with open_input(str(two)) as source:
        assert source.common_mode == 0o600
