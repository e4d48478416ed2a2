"""Headers that inflate to more than anyone has memory or time for, and those of many files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from crafted import crafted

from llmjax.compression import archive
from llmjax.compression.archive import CHECKSUM_BYTES
from llmjax.compression.codec import StreamLayout
from llmjax.compression.compress import compress
from llmjax.compression.decompress import inspect
from llmjax.compression.header import (
    MAX_HEADER_BYTES,
    MAX_MEMBERS,
    MAX_PATH_BYTES,
    check_members,
    pack_header,
    unpack_header,
)
from llmjax.compression.inputs import list_folder
from llmjax.compression.plan import check_memory
from llmjax.errors import UserError
from llmjax.inference.language_model import load

pytestmark = pytest.mark.once

REST = bytes(1 + 32 + CHECKSUM_BYTES)
MILLIONS = 80_000_000

OPEN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from llmjax.compression.decompress import inspect
from llmjax.errors import UserError
for path in sys.argv[1:]:
    try:
        inspect(path)
        print("fine")
    except UserError as error:
        print(error)
"""


def a_list(item: bytes, count: int) -> bytes:
    return b'{"size":0,"a":[' + (item + b",") * count + item + b"]}"


def files(*members) -> bytes:
    return json.dumps({"size": 0, "files": members}).encode()


BOMBS = {
    "lists": (lambda: a_list(b"[]", MILLIONS // 3), "more than 67,108,864 bytes"),
    "fewer lists": (lambda: a_list(b"[]", MAX_HEADER_BYTES // 3 - 99), "3,000,000 JSON values"),
    "text": (lambda: b'{"size":0,"a":"' + b"a" * MILLIONS + b'"}', "more than 67,108,864 bytes"),
    "shorter text": (
        lambda: b'{"size":0,"a":"' + b"a" * 10**6 + "🙂".encode() + b'"}',
        "text of more than 65,536 characters",
    ),
    "name": (lambda: b'{"size":0,"' + b"a" * 10**6 + b'":0}', "more than 65,536 characters"),
    "digits": (lambda: b'{"size":' + b"9" * 10**7 + b"}", "not JSON: Exceeds the limit"),
    "integer": (lambda: b'{"size":0,"a":' + b"9" * 4000 + b"}", "does not fit 64 bits"),
    "fields": (lambda: a_list(b"1", 1001), "more than 1,000 values beside its files"),
    "path": (lambda: files(["a/" * 200_000 + "a", 420, 0, 0]), "more than 4,096 bytes"),
    "part": (lambda: files(["a" * 256, 420, 0, 0]), "part of more than 255 bytes"),
    "paths": (
        lambda: files(*(["a/" * 1000 + str(i), 420, 0, 0] for i in range(9000))),
        "needs more than 500,000 files and folders",
    ),
    "members": (lambda: files(*([] for _ in range(MAX_MEMBERS + 1))), "more than 500,000 files"),
    "depth": (lambda: a_list(b"[[[]]]", 9), "nested more than 3 deep"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_a_gibibyte(name, tmp_path):
    make, message = BOMBS[name]
    (tmp_path / "bomb").write_bytes(crafted(make(), REST))
    words = [sys.executable, "-c", OPEN, tmp_path / "bomb"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.startswith("the archive: is damaged: ")
    assert message in done.stdout


def test_a_header_of_a_hundred_thousand_files(tmp_path):
    """About 100 bytes each: a folder of sources comes to 10 MB, of the 67 that are read."""
    folders = [[f"src/a/package/of/many/parts/{i:03d}", 0o755, i, -1] for i in range(100)]
    names = (f"src/a/package/of/many/parts/{i % 100:03d}/module_{i:06d}.py" for i in range(100_000))
    members = folders + [[name, 0o644, 1_700_000_000_000_000_000, 7] for name in names]
    header = {"size": 700_000, "files": members}
    assert unpack_header(pack_header(header)) == header


def test_sizes_have_to_add_up():
    with pytest.raises(UserError, match="the sizes of its files do not add up"):
        pack_header({"size": 0, "files": [["a", 0o644, 0, 3]]})


def test_a_header_that_ends_early_or_late():
    packed = pack_header({"size": 3})
    for data in (packed[:-1], packed + b"x"):
        with pytest.raises(UserError, match="its header"):
            unpack_header(data)


def test_what_follows_the_last_frame(tmp_path):
    (tmp_path / "a").write_bytes(crafted(b'{"size":0}', b"\0more" + bytes(32 + CHECKSUM_BYTES)))
    with pytest.raises(UserError, match="between its last frame and its checksums"):
        inspect(tmp_path / "a")
    long = bytes([archive.STORED]) + archive.varint(1 << 40)
    (tmp_path / "a").write_bytes(crafted(b'{"size":0}', long + bytes(32 + CHECKSUM_BYTES)))
    with pytest.raises(UserError, match="a frame is cut short"):
        inspect(tmp_path / "a")


def test_a_folder_of_more_files_than_a_header_has(tmp_path, monkeypatch):
    monkeypatch.setattr("llmjax.compression.inputs.MAX_MEMBERS", 3)
    for name in "abc":
        (tmp_path / name).write_bytes(b"")
    assert len(list_folder(tmp_path)) == 3
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="has more than 3 files and folders; compress parts"):
        list_folder(tmp_path)


def test_what_is_not_read_is_not_written():
    with pytest.raises(UserError, match=r"the header: would exceed the limits: .* a text of"):
        pack_header({"size": 0, "environment": {"flags": "x" * (1 << 16) + "x"}})


def test_the_longest_path_is_fine():
    name = "/".join(["é" * 127] * 16)
    name += "/" + "x" * (MAX_PATH_BYTES - len(name.encode()) - 1)
    assert check_members([[name, 420, 0, 1]])
    with pytest.raises(UserError, match="more than 4,096 bytes"):
        check_members([[name + "x", 420, 0, 1]])


def test_names_that_sort_between_a_folder_and_its_files():
    """In the order of characters "a b" and "a-b" come between "a" and "a/b"."""
    good = [["a", 0o755, 0, -1], ["a b", 420, 0, 1], ["a-b", 420, 0, 1], ["a/b", 420, 0, 1]]
    assert check_members(good) == good
    with pytest.raises(UserError, match="is listed twice, or inside a file"):
        check_members([["a", 420, 0, 1], *good[1:]])


def test_streams_that_no_memory_holds(run):
    """The message names what is needed and what there is; nothing is allocated."""
    config = load(run, dtype="float32").model.config
    with pytest.raises(UserError, match=r"streams 4096, context 64: need .* MiB, but the device"):
        check_memory(config, StreamLayout(4096, 64, 32), memory=1 << 24)
    check_memory(config, StreamLayout(256, 64, 32), memory=1 << 24)
    with pytest.raises(UserError, match="but the device has"):
        check_memory(config, StreamLayout(1 << 16, 10**9, 32))


def test_made_up_headers_are_refused_or_right(run, tmp_path):
    """In three gibibytes of memory and a minute, whatever the fields say."""
    (tmp_path / "in").write_bytes(b"A small archive, whose header is made up. " * 3 + b"\xff")
    plain = {"dtype": "float32", "verify": False, "compare": False, "fallback": False}
    compress(run, tmp_path / "in", tmp_path / "a", streams=2, context=32, stride=16, **plain)
    code = f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import fuzzing; "
    words = [sys.executable, "-c", code + "fuzzing.main(*sys.argv[1:])", run, tmp_path / "a"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    assert counts["refused"] > 10
    assert counts["shown"] > 2
