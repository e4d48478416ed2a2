"""Sources that are datatrove's readers: the same documents as in its pipelines."""

import csv
import gzip
import inspect
import io
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmjax import (
    CsvSource,
    DatatroveHubSource,
    DatatroveJsonlSource,
    DatatroveParquetSource,
    IpcSource,
    WarcSource,
)
from llmjax.data.datatrove.library import hear_warnings
from llmjax.data.datatrove.readers import ReaderSource
from llmjax.data.text.reading import LARGEST_DOCUMENT
from llmjax.data.text.source import SOURCES
from llmjax.errors import UserError

ROWS = [
    {"text": text, "url": f"http://a{number}.com", "n": number}
    for number, text in enumerate(["one", "", 'a "b",\r\nc', "größer 你好", "x\ry", "last\n"])
]


def write_csv(path: Path) -> None:
    with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, ["text", "url", "n"])
        rows.writeheader()
        rows.writerows(ROWS)


def write_ipc(path: Path, stream: bool = False) -> None:
    table = pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def theirs(reader: str, folder: Path, **parameters) -> list[tuple[str, dict]]:
    from datatrove.pipeline import readers

    found = getattr(readers, reader)(str(folder), **parameters).run()
    return [(document.text, without_path(document.metadata)) for document in found]


def ours(source: ReaderSource) -> list[tuple[str, dict]]:
    return [(raw.text, without_path(raw.metadata)) for raw in source.raw_documents()]


def without_path(metadata: dict) -> dict:
    return {name: value for name, value in metadata.items() if name != "file_path"}


def test_rows_are_those_of_datatrove(tmp_path):
    write_csv(tmp_path / "a.csv.gz")
    source = CsvSource((str(tmp_path / "*.csv.gz"),))
    assert ours(source) == theirs("CSVReader", tmp_path, glob_pattern="*.csv.gz")
    assert [text for text, _ in ours(source)] == [
        "one",
        'a "b",\nc',
        "größer 你好",
        "x\ny",
        "last\n",
    ]
    assert list(source.documents()) == [text for text, _ in ours(source)]
    write_ipc(tmp_path / "a.arrow")
    write_ipc(tmp_path / "b.stream", stream=True)
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    expected = theirs("IpcReader", tmp_path, glob_pattern="*.arrow")
    assert [text for text, _ in expected] == [row["text"] for row in ROWS if row["text"]]
    for source in (
        IpcSource((str(tmp_path / "a.arrow"),)),
        IpcSource((str(tmp_path / "b.stream"),), stream=True),
        DatatroveParquetSource((str(tmp_path / "a.parquet"),), batch_size=2),
    ):
        assert ours(source) == expected
    columns = DatatroveParquetSource((str(tmp_path / "a.parquet"),), read_metadata=False)
    assert ours(columns) == [(text, {}) for text, _ in expected]


def test_lines_are_those_of_datatrove(tmp_path, caplog):
    pytest.importorskip("orjson")
    (tmp_path / "a.jsonl").write_text('{"text": "a", "url": "u"}\n{"text"\n\n{"text": "b"}\n')
    source = DatatroveJsonlSource((str(tmp_path / "a.jsonl"),))
    hear_warnings()  # whatever has set up datatrove's messages before
    assert ours(source) == theirs("JsonlReader", tmp_path) == [("a", {"url": "u"}), ("b", {})]
    assert "Error when reading `a.jsonl`" in caplog.text
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: is not UTF-8: byte 0xff at offset 24"):
        ours(source)


def test_pages_are_those_of_datatrove(tmp_path):
    writing = pytest.importorskip("warcio.warcwriter")
    heads = pytest.importorskip("warcio.statusandheaders")
    for package in ("cchardet", "magic"):
        pytest.importorskip(package, exc_type=ImportError)
    with (tmp_path / "a.warc.gz").open("wb") as file:
        writer, generator = writing.WARCWriter(file, gzip=True), random.Random(0)
        for number in range(30):
            kind = generator.choice(["response", "conversion", "request"])
            type_ = "text/plain" if kind == "conversion" else "text/html"
            page = f"<html>größer {number}</html>".encode(generator.choice(["utf-8", "latin-1"]))
            headers = {"WARC-Identified-Payload-Type": type_}
            http = heads.StatusAndHeaders("200 OK", [], protocol="HTTP/1.0")
            record = writer.create_warc_record(
                f"http://a{number}.com",
                kind,
                payload=io.BytesIO(page),
                warc_content_type=type_,
                http_headers=None if kind == "conversion" else http,
                warc_headers_dict=headers,
            )
            writer.write_record(record)
    source = WarcSource((str(tmp_path / "a.warc.gz"),))
    assert ours(source) == theirs("WarcReader", tmp_path)
    assert all(metadata["url"].startswith("http://a") for _, metadata in ours(source))
    data = (tmp_path / "a.warc.gz").read_bytes()
    (tmp_path / "a.warc.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.warc\.gz: is truncated"):
        ours(source)
    (tmp_path / "b.warc").write_bytes(b"no archive\n")
    with pytest.raises(UserError, match=r"b\.warc: datatrove's WarcReader cannot read it"):
        ours(WarcSource((str(tmp_path / "b.warc"),)))


def test_rows_of_the_hub_are_those_of_datatrove(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(path, **options):
        calls.append((path, options))
        return datasets.IterableDataset.from_generator(lambda: iter(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = DatatroveHubSource("owner/name", "sub", batch_size=2, revision="0" * 40)
    assert source.pinned() == source
    found = [(raw.text, raw.metadata["url"]) for raw in source.raw_documents()]
    assert found == [(row["text"], row["url"]) for row in ROWS if row["text"]]
    options = {"name": "sub", "split": "train", "revision": "0" * 40, "streaming": True}
    assert calls == [("owner/name", options)]
    other = DatatroveHubSource("owner/name", "sub", revision="1" * 40)
    assert source.identify() != other.identify()


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.arrow"
    write_ipc(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"a\.arrow: datatrove's IpcReader cannot read it: Arrow"):
        ours(IpcSource((str(path),)))
    table = pa.table({"text": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet.*its text is of type int; set text_key"):
        ours(DatatroveParquetSource((str(tmp_path / "a.parquet"),)))
    (tmp_path / "a.csv").write_bytes(b"text\na\n\xff\n")
    with pytest.raises(UserError, match=r"a\.csv: is not UTF-8: byte 0xff at offset 7"):
        ours(CsvSource((str(tmp_path / "a.csv"),)))
    with pytest.raises(UserError, match=r"b\.csv: does not exist"):
        CsvSource((str(tmp_path / "b.csv"),)).identify()


def test_large_documents_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llmjax.data.datatrove.readers.LARGEST_DOCUMENT", 5)
    (tmp_path / "a.csv").write_text("text\ngroß\ngroße\n", encoding="utf-8")
    with pytest.raises(UserError, match="has 6 bytes, and a document may have at most 5 bytes"):
        ours(CsvSource((str(tmp_path / "a.csv"),)))
    assert LARGEST_DOCUMENT > 5


@pytest.mark.parametrize(
    "kind", [kind for kind, cls in SOURCES.items() if issubclass(cls, ReaderSource)]
)
def test_the_fields_are_parameters_of_datatrove(kind):
    from datatrove.pipeline import readers

    source = SOURCES[kind](("a",))
    signature = inspect.signature(getattr(readers, source.library_class).__init__)
    for name, value in source.arguments.items():
        assert signature.parameters[name].default == value
