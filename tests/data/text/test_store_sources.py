"""Sources and tables in buckets, against real servers."""

import gzip
import io

import pytest

from llmjax.data.tables.files import FileTable, LinesTable
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.errors import UserError
from llmjax.run.config.overrides import Override, override
from llmjax.run.config.schema import Config
from llmjax.storage.stores.path import location
from object_stores import SERVERS


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def put(server, request):
    """Writes an object, and returns its address."""

    def write(name: str, data: bytes) -> str:
        path = location(server.address(f"{request.node.originalname}/{name}"))
        path.write_bytes(data)
        return str(path)

    return write


def parquet(columns: dict) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def test_text_and_globs(put):
    put("b.txt", b"second\n")
    put("deep/c.txt.gz", gzip.compress(b"third\n"))
    first = put("a.txt", b"first\n")
    folder = first.removesuffix("/a.txt")
    assert list(TextSource((f"{folder}/**/*.txt*",)).documents()) == [
        "first\n",
        "second\n",
        "third\n",
    ]
    assert list(TextSource((first,), split="line").documents()) == ["first"]
    with pytest.raises(UserError, match=r"\*\.csv: matches no object"):
        list(TextSource((f"{folder}/*.csv",)).documents())
    with pytest.raises(UserError, match="is a folder; give a glob, such as"):
        list(TextSource((folder,)).documents())
    with pytest.raises(UserError, match=r"none\.txt: does not exist"):
        list(TextSource((f"{folder}/none.txt",)).documents())
    damaged = put("damaged.txt.gz", gzip.compress(b"third\n")[:-4])
    with pytest.raises(UserError, match="is truncated"):
        list(TextSource((damaged,)).documents())


def test_jsonl_and_parquet(put):
    lines = put("x.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    assert list(JsonlSource((lines,)).documents()) == ["one", "two"]
    table = put("x.parquet", parquet({"text": ["one", None, "two"], "n": [1, 2, 3]}))
    assert list(ParquetSource((table,)).documents()) == ["one", "two"]


def test_identity_is_that_of_the_version(server, put):
    source = TextSource((put("a.txt", b"first"),))
    before = source.identify()
    start = len(server.requests)
    assert source.identify() == before
    asked = server.asked_since(start)
    assert len(asked) <= 4, "of metadata alone"
    assert not any("alt=media" in request for request in asked)
    assert before.num_bytes == 5
    before.check_unchanged()
    put("a.txt", b"other")
    assert source.identify().digest != before.digest
    with pytest.raises(UserError, match="changed while it was read"):
        before.check_unchanged()


def test_tables(put):
    csv = put("rows.csv", b"text,label\ngood,1\nbad,0\n")
    assert [row.values["label"] for row in FileTable((csv,)).rows()] == ["1", "0"]
    assert [row.place for row in FileTable((csv,)).rows()] == [f"{csv} line 2", f"{csv} line 3"]
    values = FileTable((put("rows.parquet", parquet({"n": [1, 2]})),)).rows()
    assert [row.values for row in values] == [{"n": 1}, {"n": 2}]
    pair = LinesTable((put("en.txt", b"a\nb\n"), put("de.txt", b"A\nB\n")))
    assert [row.values["target"] for row in pair.rows()] == ["A", "B"]


def test_command_line_knows_addresses():
    words = ("gs://b/x/*.jsonl.gz", "s3://b/plain")
    config = override(Config(), [Override("data.sources", words)], {})
    assert config.data.sources == (JsonlSource((words[0],)), TextSource((words[1],)))
