"""Decompression bombs are refused before they take much memory."""

import bz2
import gzip
import lzma
import subprocess
import sys
import zlib

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from llmjax.data.text import reading
from llmjax.data.text.reading import read_blocks, read_chunks, read_lines
from llmjax.errors import UserError

CHILD = """
import resource, sys
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_tables
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.errors import UserError
import pyarrow, pyarrow.parquet, zstandard
form, path = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    if form == "table":
        print(len(read_tables([FileTable((path,))])))
    elif form == "jsonl":
        print(sum(map(len, JsonlSource((path,)).documents())))
    elif form == "parquet":
        print(sum(map(len, ParquetSource((path,)).documents())))
    else:
        print(sum(map(len, TextSource((path,), split=form).documents())))
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def outcome(form, path) -> tuple[str, int]:
    """Output of a process that reads `path`, and the MiB by which its peak memory grew."""
    command = [sys.executable, "-c", CHILD, form, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output, size = done.stdout.splitlines()
    return output, int(size)


@pytest.fixture(scope="module")
def zeros(tmp_path_factory):
    """600 MiB of zeros in 20 KiB."""
    path = tmp_path_factory.mktemp("zeros") / "zeros.csv.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(1).stream_writer(file) as writer:
        for _ in range(600):
            writer.write(bytes(1 << 20))
    assert path.stat().st_size < 30_000
    return path


@pytest.mark.parametrize(
    ("form", "message", "limit"),
    [
        ("chunk", "decompresses to over 256 MiB, 250 times its size or more", 250),
        ("file", "decompresses to over 256 MiB", 500),
        ("line", "line 1: is longer than 64 MiB", 250),
        ("jsonl", "line 1: is longer than 64 MiB", 250),
        ("table", "line 1: is longer than 64 MiB", 250),
    ],
)
def test_zeros_without_end(zeros, form, message, limit):
    output, size = outcome(form, zeros)
    assert message in output
    assert size < limit


def test_a_value_that_is_repeated_without_end(tmp_path):
    """A dictionary with one value of 4 MB, repeated 300 times."""
    repeated = pyarrow.DictionaryArray.from_arrays([0] * 300, ["x" * 4_000_000])
    parquet.write_table(pyarrow.table({"text": repeated}), tmp_path / "a.parquet")
    output, size = outcome("parquet", tmp_path / "a.parquet")
    assert output == "1200000000"
    assert size < 800


def test_a_long_line_is_put_together_once(tmp_path, monkeypatch):
    """Joining again after every block of 200 bytes would take minutes."""
    monkeypatch.setattr(reading, "BLOCK", 200)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 20_000_000 + b"\nshort\n")
    assert [len(line) for _, line in read_lines(path)] == [20_000_000, 5]
    assert [len(text) for _, text in read_chunks(path, 4_000_000)] == [16_000_000, 4_000_007]


@pytest.mark.parametrize(
    ("ending", "squeeze"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_files_that_expand_more_than_text_are_refused(tmp_path, monkeypatch, ending, squeeze):
    monkeypatch.setattr(reading, "BOMB_SIZE", 1 << 20)
    path = tmp_path / f"a{ending}"
    path.write_bytes(squeeze(bytes(1 << 20)))
    assert sum(map(len, read_blocks(path))) == 1 << 20
    path.write_bytes(squeeze(bytes(4 << 20)))
    with pytest.raises(UserError, match=rf"a{ending}: decompresses to over"):
        max(map(len, read_blocks(path)))


def test_an_xz_file_that_asks_for_much_memory(tmp_path):
    path = tmp_path / "a.xz"
    content = bytearray(lzma.compress(b"text"))
    # The header of the first block: its length, flags, LZMA2, one byte of properties, that byte.
    end = 12 + 4 * (content[12] + 1) - 4
    assert content[13:16] == b"\x00\x21\x01"
    for size, name in ((22, "8 MiB"), (40, "4 GiB")):
        content[16] = size
        content[end : end + 4] = zlib.crc32(content[12:end]).to_bytes(4, "little")
        path.write_bytes(content)
        if name == "8 MiB":
            assert b"".join(read_blocks(path)) == b"text"
        else:
            with pytest.raises(UserError, match=r"a\.xz: is not valid \.xz data: Memory usage"):
                list(read_blocks(path))


def test_a_zst_file_that_refers_back_too_far(tmp_path):
    path = tmp_path / "a.zst"
    options = zstandard.ZstdCompressionParameters(window_log=28)
    writer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    path.write_bytes(writer.compress(b"text") + writer.flush())
    with pytest.raises(UserError, match=r"a\.zst: is not valid \.zst data: .*memory"):
        list(read_blocks(path))
