"""Sources yield their documents, and report errors with their location."""

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import replace

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from llmjax.data.text import reading
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.reading import read_whole
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.data.text.tfds import EmbeddedSource
from llmjax.errors import UserError


def test_a_file_a_line_or_a_run_of_paragraphs_is_a_document(tmp_path):
    text = "".join(f"Paragraph {i}.\nIts second line.\n\n" for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    path = (str(tmp_path / "a.txt"),)
    assert list(TextSource(path, split="file").documents()) == [text]
    assert list(TextSource(path, split="line").documents()) == [x for x in text.split("\n") if x]
    chunks = list(TextSource(path, chunk_bytes=200).documents())
    assert len(chunks) > 10
    assert "".join(chunks) == text


def test_several_files_come_in_order(tmp_path):
    for name in "bca":
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(TextSource((f"{tmp_path}/*.txt",)).documents()) == ["a", "b", "c"]
    explicit = tuple(str(tmp_path / f"{name}.txt") for name in "cab")
    assert list(TextSource(explicit).documents()) == ["c", "a", "b"]


@pytest.mark.parametrize("split", ["chunk", "file", "line"])
def test_invalid_utf8_is_refused_by_file_and_offset(tmp_path, split):
    path = tmp_path / "bad.txt"
    path.write_bytes("naïve\n".encode() * 1000 + b"ab\xffcd\n" + b"more\n")
    with pytest.raises(UserError, match=r"bad\.txt: is not UTF-8: byte 0xff at offset 7002"):
        list(TextSource((str(path),), split=split).documents())
    replaced = "".join(TextSource((str(path),), split=split, errors="replace").documents())
    assert "ab\ufffdcd" in replaced


def write_jsonl(path, records) -> JsonlSource:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return JsonlSource((str(path),))


def test_jsonl_plain_and_compressed(tmp_path):
    records = [{"text": f"document {i}\nnaïve", "id": i} for i in range(5)]
    source = write_jsonl(tmp_path / "a.jsonl", [*records, {"text": ""}])
    content = (tmp_path / "a.jsonl").read_bytes() + b"\n  \n"
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    expected = [record["text"] for record in records]
    assert list(source.documents()) == expected
    assert list(JsonlSource((f"{tmp_path}/*.jsonl.*",)).documents()) == expected * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x", "title": "y", "n": 1}', r":2: has no field 'text'; .*: body, title"),
        ('{"text": 3, "title": "y"}', r":2: field 'text' is not a string; .*: title"),
        ('{"text": "broken', r":2: is not JSON"),
        ('["text"]', r":2: is not a JSON object"),
        (r'{"text": "a\ud800b"}', r":2: character 1 of its text is half a surrogate"),
    ],
)
def test_bad_lines_are_refused_by_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl" + message):
        list(JsonlSource((str(tmp_path / "a.jsonl"),)).documents())


def test_replacing_broken_text_in_jsonl(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\ud800b"}\n{"text": "a\xffb"}\n')
    source = JsonlSource((str(tmp_path / "a.jsonl"),), errors="replace")
    assert list(source.documents()) == ["a\ufffdb", "a\ufffdb"]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "a\xffb"}\n')
    with pytest.raises(UserError, match="0xff at offset 28"):
        list(JsonlSource(source.paths).documents())


def write_parquet(path, **columns) -> ParquetSource:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=10)
    return ParquetSource((str(path),))


def test_parquet_by_row_groups_with_nulls(tmp_path):
    texts = [f"document {i}" for i in range(50)]
    source = write_parquet(tmp_path / "a.parquet", text=[*texts, None, ""], n=list(range(52)))
    found = source.documents()
    assert isinstance(found, Iterator)
    assert list(found) == texts
    encoded = pyarrow.array(texts).dictionary_encode()
    assert list(write_parquet(tmp_path / "c.parquet", text=encoded).documents()) == texts
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(content))
    assert list(ParquetSource((str(tmp_path / "b.parquet.gz"),)).documents()) == texts


def test_bad_parquet(tmp_path):
    source = write_parquet(tmp_path / "a.parquet", body=["x"], n=[1])
    with pytest.raises(UserError, match=r"a\.parquet: has no column 'text'; .*: body, n"):
        list(source.documents())
    with pytest.raises(UserError, match="is of type int64, not string"):
        list(ParquetSource(source.paths, column="n").documents())
    content = (tmp_path / "a.parquet").read_bytes()
    for broken in (content[: len(content) // 2], b"no parquet", b""):
        (tmp_path / "a.parquet").write_bytes(broken)
        with pytest.raises(UserError, match="is not a valid Parquet file"):
            list(source.documents())


@pytest.mark.parametrize("split", ["chunk", "file", "line"])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_text(tmp_path, split, squeeze):
    path = tmp_path / ("a.txt" if squeeze is bytes else "a.txt.gz")
    path.write_bytes(squeeze(b"\xef\xbb\xbffirst \xef\xbb\xbf inside"))
    source = TextSource((str(path),), split=split)
    assert list(source.documents()) == ["first \ufeff inside"]
    path.write_bytes(squeeze(b"\xef\xbb\xbfab\xff"))
    with pytest.raises(UserError, match="0xff at offset 5"):
        list(source.documents())
    path.write_bytes(squeeze(b"\xef\xbb\xbf"))
    assert list(source.documents()) == []


def test_a_byte_order_mark_before_json(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}')
    assert list(JsonlSource((str(path),)).documents()) == ["a", "b"]


@pytest.mark.parametrize("errors", ["strict", "replace"])
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (
            "utf-16",
            r"is UTF-16, not UTF-8 \(it begins with the byte order mark ff fe\); convert it",
        ),
        ("utf-32", r"is UTF-32, not UTF-8 \(it begins with the byte order mark ff fe 00 00\)"),
    ],
)
def test_other_encodings_are_named(tmp_path, errors, encoding, message):
    path = tmp_path / "a.txt"
    path.write_bytes('{"text": "a"}\n'.encode(encoding))
    for source in (
        TextSource((str(path),), errors=errors),
        TextSource((str(path),), split="line", errors=errors),
        TextSource((str(path),), split="file", errors=errors),
        JsonlSource((str(path),), errors=errors),
    ):
        with pytest.raises(UserError, match=r"a\.txt: " + message):
            list(source.documents())


def test_names_that_are_not_utf_8(tmp_path):
    folder = os.fsencode(tmp_path)
    with open(folder + b"/caf\xe9.txt", "wb") as file:
        file.write(b"text")
    name = os.fsdecode(folder + b"/caf\xe9.txt")
    for paths in ((name,), (f"{tmp_path}/*.txt",)):
        assert list(TextSource(paths).documents()) == ["text"]
        assert TextSource(paths).identify(str(tmp_path / "cache")).num_bytes == 4


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for name, message in [
        (tmp_path / "pipe.txt", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        (tmp_path, "is a folder"),
        (tmp_path / "*.txt", "matches no file"),
    ]:
        for source in (TextSource((str(name),)), ParquetSource((str(name),))):
            with pytest.raises(UserError, match=message):
                list(source.documents())


def test_a_document_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 100)
    monkeypatch.setattr(reading, "BLOCK", 10)
    path = tmp_path / "a.txt"
    path.write_text("short\n" + "x" * 100 + "\n" + "y" * 101)
    source = TextSource((str(path),), split="line")
    found = source.documents()
    assert (next(found), next(found)) == ("short", "x" * 100)
    with pytest.raises(UserError, match=r"a\.txt line 3: is longer than 100 bytes; break it up"):
        next(found)
    assert "".join(replace(source, split="chunk").documents()) == path.read_text()
    with pytest.raises(
        UserError, match=r"a\.txt: is larger than 100 bytes, the most that is read into memory"
    ):
        read_whole(path, 100)


def test_deep_and_ambiguous_json(tmp_path):
    path = tmp_path / "a.jsonl"
    for line, message in [
        ("[" * 100_000, r"a\.jsonl:1: has JSON nested more than 100 deep"),
        ('{"text": "a", "text": "b"}', r"a\.jsonl:1: .*the name 'text' appears twice"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", r"a\.jsonl:1: is not JSON"),
    ]:
        path.write_text(line)
        with pytest.raises(UserError, match=message):
            list(JsonlSource((str(path),)).documents())


def test_parquet_with_two_columns_of_one_name(tmp_path):
    schema = pyarrow.schema([("text", pyarrow.string())] * 2)
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], schema=schema)
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: has two columns 'text'"):
        list(ParquetSource((str(tmp_path / "a.parquet"),)).documents())


def test_large_files_stream(tmp_path):
    """Yields the first document of 64 MB without reading the rest."""
    import tracemalloc

    with (tmp_path / "big.txt").open("w") as file:
        for i in range(64):
            file.write((f"line {i} " + "word " * 18 + "\n") * 10_000)
    for source in (
        TextSource((str(tmp_path / "big.txt"),)),
        TextSource((str(tmp_path / "big.txt"),), split="line"),
    ):
        tracemalloc.start()
        next(source.documents())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16 << 20


@pytest.mark.once
def test_the_embedded_corpus(tmp_path_factory):
    """TFDS prepares it as ArrayRecord without TensorFlow, deterministically."""
    cache = str(tmp_path_factory.mktemp("embedded"))
    found = list(EmbeddedSource().documents(cache))
    size = sum(len(text.encode()) for text in found)
    assert 1.5e6 < size < 4e6
    assert len(found) > 300
    assert any('The "assert" statement' in text for text in found)
    assert list(EmbeddedSource().documents(cache)) == found
