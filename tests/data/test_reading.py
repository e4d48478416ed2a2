"""Files as streams: nothing is lost or silently truncated."""

import bz2
import gzip
import lzma

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from llmjax.data.text import reading
from llmjax.data.text.reading import expand, read_blocks, read_chunks, read_lines
from llmjax.errors import UserError

COMPRESS = {
    ".txt": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TEXT = st.lists(
    st.sampled_from(["word ", "\n", "\n\n", "\r\n\r\n", "é", "你", "😀", "x" * 30, " \n \n"]),
    max_size=80,
).map(lambda parts: "".join(parts).encode())


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 7)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_read_as_their_content(tmp_path, suffix, small_blocks):
    content = "naïve text\n".encode() * 1000
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](content))
    assert b"".join(read_blocks(path)) == content


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_several_compressed_streams_in_one_file(tmp_path, suffix, small_blocks):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one ") + COMPRESS[suffix](b"two"))
    assert b"".join(read_blocks(path)) == b"one two"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    content = COMPRESS[suffix](bytes(range(256)) * 400)
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(UserError, match=rf"file{suffix}: is truncated"):
        list(read_blocks(path))


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_files_that_are_not_what_their_name_says_are_refused(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(b"plain text, not compressed at all")
    with pytest.raises(UserError, match=suffix):
        list(read_blocks(path))


def test_missing_files_folders_and_empty_globs(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("a")
    names = [path.name for path in expand((f"{tmp_path}/**/*.txt",))]
    assert sorted(names) == ["a.txt", "b.txt"]
    assert expand((f"{tmp_path}/*.txt", f"{tmp_path}/b.txt")) == [tmp_path / "b.txt"]
    for pattern, message in [
        ("no.txt", "does not exist"),
        ("*.csv", "matches no file"),
        ("deep", "is a folder"),
    ]:
        with pytest.raises(UserError, match=message):
            expand((f"{tmp_path}/{pattern}",))
    with pytest.raises(UserError, match=r"https://a\.org/b\.txt: is an address, not a file"):
        expand(("https://a.org/b.txt",))


@settings(max_examples=200, deadline=None)
@given(content=TEXT, size=st.integers(1, 40), block=st.integers(1, 50))
def test_chunks_put_together_are_the_file(tmp_path_factory, content, size, block):
    path = tmp_path_factory.mktemp("chunks", numbered=True) / "file.txt"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", block)
        chunks = list(read_chunks(path, size))
    assert b"".join(data for _, data in chunks) == content
    assert chunks == list(read_chunks(path, size)), "depends on the block size"
    offset = 0
    for start, data in chunks:
        assert start == offset
        data.decode("utf-8")  # complete characters
        offset += len(data)
    assert all(len(data) >= min(size, 4) for _, data in chunks[:-1])


def test_chunks_end_at_blank_lines(tmp_path):
    paragraphs = [f"paragraph {i} " + "word " * (i % 50) + "\n\n" for i in range(300)]
    (tmp_path / "file.txt").write_text("".join(paragraphs))
    chunks = [data for _, data in read_chunks(tmp_path / "file.txt", 1000)]
    assert all(chunk.endswith(b"\n\n") for chunk in chunks)
    assert all(1000 <= len(chunk) < 1400 for chunk in chunks[:-1])


def test_without_blank_lines_chunks_end_at_line_ends_or_are_cut(tmp_path):
    (tmp_path / "lines.txt").write_text(
        "x" * 99 + "\n" + "y" * 99 + "\n" * 1 + ("z" * 99 + "\n") * 98
    )
    chunks = [data for _, data in read_chunks(tmp_path / "lines.txt", 1000)]
    assert {len(chunk) for chunk in chunks[:-1]} == {2100}
    (tmp_path / "long.txt").write_text("é" * 5000)
    chunks = [data for _, data in read_chunks(tmp_path / "long.txt", 333)]
    assert {len(chunk) for chunk in chunks[:-1]} == {1332}


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))))
def test_lines_and_their_offsets(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines", numbered=True) / "file.txt"
    content = "\n".join(lines).encode()
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK", 3)
        offsets = list(read_lines(path))
    assert [line.decode() for _, line in offsets] == (
        lines if content[-1:] not in (b"", b"\n") else lines[:-1]
    )
    assert all(content[start : start + len(line)] == line for start, line in offsets)
