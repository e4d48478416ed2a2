"""Tables of every format, and one clear line for every error."""

import bz2
import csv
import gzip
import io
import json
import lzma
import sys

import numpy as np
import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from llmjax.data.tables import table as tables
from llmjax.data.tables.files import FileTable, LinesTable
from llmjax.data.tables.table import (
    Row,
    list_at,
    number_at,
    read_table,
    read_tables,
    split_rows,
    text_at,
)
from llmjax.data.tables.tfds import TfdsTable
from llmjax.data.text import parquet as parquet_source
from llmjax.errors import UserError

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Berlin",
            "paragraphs": [
                {
                    "context": "Berlin liegt an der Spree.",
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Wo?",
                            "answers": [{"text": "an der Spree", "answer_start": 13}],
                        },
                        {"id": "q2", "question": "Wann?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@pytest.fixture
def table(tmp_path):
    """Writes a file and returns its table."""

    def write(name, content, **more):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return FileTable((str(tmp_path / name),), **more)

    return write


def values(table):
    return [row.values for row in read_table(table)]


def test_csv_with_quotes_commas_and_line_ends(table):
    found = list(read_table(table("a.csv", 'text,label\r\n"a, ""b""\r\nc",x\r\n\r\nd,y\r\n')))
    assert [row.values for row in found] == [
        {"text": 'a, "b"\r\nc', "label": "x"},
        {"text": "d", "label": "y"},
    ]
    assert [row.place.rsplit("/")[-1] for row in found] == ["a.csv line 2", "a.csv line 5"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), min_size=1))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, rows):
    rows = [tuple(t.encode("utf-8", "replace").decode() for t in row) for row in rows]
    file = io.StringIO(newline="")
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(file.getvalue().encode())
    assert [tuple(row.values()) for row in values(FileTable((str(path),)))] == rows


def test_long_fields(table):
    assert len(values(table("a.csv", "text\n" + "x" * 200_000))[0]["text"]) == 200_000


def test_tsv_has_no_quotes(table):
    tsv = 'text\tlabel\n"a\t1\nb "c" d\t0\n'
    for name in ("a.tsv", "a.txt", "a.tab"):
        assert values(table(name, tsv)) == [
            {"text": '"a', "label": "1"},
            {"text": 'b "c" d', "label": "0"},
        ]


def test_columns_are_named_for_files_that_begin_without_names(table):
    found = list(read_table(table("a.tsv", "good\t1\r\nbad\t0", columns=("text", "label"))))
    assert found[0].values == {"text": "good", "label": "1"}
    assert found[0].place.endswith("a.tsv line 1")
    assert found[1].values == {"text": "bad", "label": "0"}


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson"])
def test_json_lines(table, name):
    found = list(read_table(table(name, '{"text": "é", "n": [1, 2]}\n\n{"text": "b", "n": null}')))
    assert [row.values for row in found] == [
        {"text": "é", "n": [1, 2]},
        {"text": "b", "n": None},
    ]
    assert found[1].place.endswith("line 3")


def test_a_list_of_objects(table):
    objects = [{"text": "a"}, {"text": "b"}]
    assert values(table("a.json", json.dumps(objects))) == objects
    assert values(table("b.json", json.dumps({"data": objects}))) == objects


def test_squad(table):
    first, second = read_table(table("a.json", json.dumps(SQUAD)))
    assert first.values == {
        "id": "q1",
        "title": "Berlin",
        "context": "Berlin liegt an der Spree.",
        "question": "Wo?",
        "answers": {"text": ["an der Spree"], "answer_start": [13]},
        "is_impossible": False,
    }
    assert second.values["is_impossible"]
    assert second.values["answers"] == {"text": [], "answer_start": []}
    assert second.place.endswith("question q2")
    broken = json.dumps(SQUAD).replace('"question": "Wann?", ', "")
    with pytest.raises(
        UserError, match=r"article 1 paragraph 1: is not in SQuAD's format: .*quest"
    ):
        values(table("b.json", broken))


def test_parquet(tmp_path):
    rows = [{"text": f"text {i}", "tags": ["a", "b"], "n": i / 2} for i in range(600)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    table = FileTable((str(tmp_path / "a.parquet"),))
    assert values(table) == rows
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"a\.parquet: is not a valid Parquet file"):
        values(table)


def write_parquet(path, names, *arrays):
    fields = zip(names, arrays, strict=True)
    schema = pyarrow.schema([(name, array.type) for name, array in fields])
    parquet.write_table(pyarrow.table(list(arrays), schema=schema), path)
    return FileTable((str(path),))


def test_parquet_with_two_columns_of_one_name(tmp_path):
    one, two = pyarrow.array(["good"]), pyarrow.array(["bad"])
    table = write_parquet(tmp_path / "a.parquet", ["text", "text"], one, two)
    with pytest.raises(UserError, match=r"a\.parquet: has two columns 'text'; rename or drop"):
        values(table)
    inner = pyarrow.StructArray.from_arrays([one, two], ["x", "x"])
    table = write_parquet(tmp_path / "b.parquet", ["text", "more"], one, inner)
    with pytest.raises(UserError, match=r"b\.parquet: column 'more' has two fields 'x'"):
        values(table)


def test_parquet_with_too_much_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_source, "LARGEST_DOCUMENT", 1000)
    texts = ["a" * 900, *("b" * (i % 9) for i in range(500)), "c" * 900]
    table = write_parquet(tmp_path / "a.parquet", ["text"], pyarrow.array(texts))
    assert [row["text"] for row in values(table)] == texts, "in smaller batches"
    texts[300] = "d" * 1001
    table = write_parquet(tmp_path / "b.parquet", ["text"], pyarrow.array(texts))
    with pytest.raises(UserError, match=r"b\.parquet row 301: has 1005 bytes, and a row may have"):
        values(table)
    monkeypatch.setattr(parquet_source, "MAX_COLUMNS", 2)
    table = write_parquet(tmp_path / "c.parquet", "abc", *[pyarrow.array([1])] * 3)
    with pytest.raises(UserError, match=r"c\.parquet: has 3 columns, and at most 2 are read"):
        values(table)


def test_more_rows_than_are_held_in_memory(table, monkeypatch):
    monkeypatch.setattr(tables, "MAX_ROWS", 3)
    assert len(read_tables([table("a.csv", "a\n1\n2\n3\n")])) == 3
    with pytest.raises(UserError, match=r"a\.csv line 2: there are more than 3 rows"):
        read_tables([table("a.csv", "a\n1\n2\n3\n")] * 2)
    monkeypatch.setattr(tables, "MAX_TEXT", 5)
    with pytest.raises(UserError, match=r"a\.jsonl line 2: there are more than .* 5 characters"):
        read_tables([table("a.jsonl", '{"a": "abc"}\n{"a": ["d", {"b": "ef"}]}\n')])


@pytest.mark.parametrize("form", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("ending", "squeeze"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_compressed(table, form, ending, squeeze):
    text = {
        "a.csv": "text\né\n",
        "a.tsv": "text\né\n",
        "a.jsonl": '{"text": "é"}',
        "a.json": '[{"text": "é"}]',
    }
    assert values(table(form + ending, squeeze(text[form].encode()))) == [{"text": "é"}]


@pytest.mark.parametrize("mark", ["", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_with_other_separators_and_line_ends(table, mark, end):
    rows = [["text", "label"], ['a, "b"', "x"], ["c\nd", "y"], ["", "z;|"]]
    file = io.StringIO(newline="")
    form = {"delimiter": mark or ",", "lineterminator": end, "quoting": csv.QUOTE_ALL}
    csv.writer(file, **form).writerows(rows)
    expected = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    assert values(table("a.csv", file.getvalue())) == expected
    pandas = pytest.importorskip("pandas")
    options = {"sep": mark or ",", "keep_default_na": False}
    assert pandas.read_csv(io.StringIO(file.getvalue()), **options).to_dict("records") == expected


def test_separators_of_files_without_names(table):
    content = "good; really; so|1\nbad|0\n"
    found = values(table("a.csv", content, columns=("text", "label")))
    assert found == [{"text": "good; really; so", "label": "1"}, {"text": "bad", "label": "0"}]
    assert values(table("b.csv", "a;b\n", columns=("text",))) == [{"text": "a;b"}]


def test_old_line_ends(table):
    assert values(table("a.tsv", "text\tn\ra\t1\rb\t2")) == [
        {"text": "a", "n": "1"},
        {"text": "b", "n": "2"},
    ]
    assert values(table("b.tsv", "text\tn\na\rb\t1\r\n")) == [{"text": "a\rb", "n": "1"}]
    found = list(read_table(table("a.csv", 'text\r"a\rb"\rc')))
    assert [row.values["text"] for row in found] == ["a\rb", "c"]
    assert found[1].place.endswith("line 4")


def test_separators_at_the_ends_of_lines(table):
    assert values(table("a.csv", "a,b,,\n1,,,\n2,3,,\n")) == [
        {"a": "1", "b": ""},
        {"a": "2", "b": "3"},
    ]
    with pytest.raises(UserError, match="line 2: has a value in column 3, which has no name"):
        values(table("b.csv", "a,b,,\n1,2,3,\n"))


def test_a_byte_order_mark_is_no_part_of_a_name(table):
    assert values(table("a.csv", b"\xef\xbb\xbftext\nb\n")) == [{"text": "b"}]
    assert values(table("a.json", b'\xef\xbb\xbf[{"text": "b"}]')) == [{"text": "b"}]
    assert values(table("a.jsonl", b'\xef\xbb\xbf{"text": "b"}')) == [{"text": "b"}]
    assert values(table("a.tsv", b"\xef\xbb\xbftext\tn\nb\t1")) == [{"text": "b", "n": "1"}]
    assert values(table("b.csv", b'\xef\xbb\xbf"text"\nb\n')) == [{"text": "b"}]
    lines = table("b.txt", b"\xef\xbb\xbfb\n").paths
    assert values(LinesTable(lines, ("text",))) == [{"text": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.dat", "x", r"a\.dat: has the unknown suffix '\.dat'; use \.csv"),
        ("a", "x", r"a: has no suffix; use \.csv"),
        ("a.csv", "", r"a\.csv: is empty; it should begin with a line of column names"),
        ("a.csv", "text,label\n", r"a\.csv: holds no rows"),
        ("a.jsonl", "\n", r"a\.jsonl: holds no rows"),
        ("a.json", "[]", r"a\.json: holds no rows"),
        (
            "a.csv",
            "a,b\n1,2\n\n3\n",
            r"a\.csv line 4: has 1 fields, not the 2 of a, b; fix the commas",
        ),
        ("a.tsv", "a\tb\n1\t2\t3\n", r"a\.tsv line 2: has 3 fields, not the 2 of a, b"),
        ("a.csv", "a,a\n1,2\n", r"a\.csv line 1: names two columns 'a'"),
        ("a.csv", 'a,b\n"1\n2,3\n', r"a\.csv line 2: is not CSV: unexpected end of data; fix"),
        ("a.csv", 'a,b\n"1"x,3\n', r"a\.csv line 2: is not CSV: ',' expected"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a\.jsonl line 2: is not JSON: "),
        ("a.jsonl", "[1]\n", r"a\.jsonl line 1: is not a JSON object"),
        ("a.json", "[1", r"a\.json: is not JSON: .*; fix it"),
        ("a.json", "[{}, 1]", r"a\.json entry 2: is not a JSON object"),
        ("a.json", '{"a": 1}', r"a\.json: is neither a list of objects nor in SQuAD's format"),
        ("a.json", b'["\xff"]', r"a\.json: is not UTF-8: invalid start byte at 2"),
        ("a.csv", b"a\nb\nc\xffd\n", r"a\.csv line 3: is not UTF-8: byte 0xff at byte 2"),
        ("a.csv", "a;b\n1;2\n3\n", r"a\.csv line 3: has 1 fields, not .*; fix the semicolons"),
        ("a.csv", "a;b|c\n1;2|3\n", r"line 1: may be separated by semicolons or vertical bars"),
        ("a.csv", "a,b\n1,2,\n", r"a\.csv line 2: has 3 fields, not the 2 of a, b"),
        ("a.csv", "\ufeff", r"a\.csv: is empty"),
        ("a.csv", "a,b\n1,2".encode("utf-16"), r"a\.csv: is UTF-16, not UTF-8 .* ff fe\); conv"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), r"a\.json: is UTF-16, not UTF-8"),
        ("a.csv", "a,b\n1,2".encode("utf-16-le"), r"line 1: has NUL bytes in the names"),
        ("a.csv", ",".join(map(str, range(20_000))), r"names 20,000 columns, and at most 16,384"),
        ("a.jsonl", '{"a": 1, "a": 2}', r"line 1: is not JSON: the name 'a' appears twice"),
        (
            "a.json",
            '[{"a": {"b": 1, "b": 1}}]',
            r"a\.json: is not JSON: the name 'b' appears twice",
        ),
        ("a.jsonl", '{"a": ' + "[" * 500 + "]" * 500 + "}", r"line 1: has JSON nested more than"),
        ("a.json", "[" * 100_000, r"a\.json: has JSON nested more than 100 deep"),
        ("a.csv.gz", b"no gzip", r"a\.csv\.gz: is not valid \.gz data"),
        ("a.tsv.gz", gzip.compress(b"a\n1\n" * 99, mtime=0)[:-4], r"a\.tsv\.gz: is truncated"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(table, name, content, message):
    with pytest.raises(UserError, match=message):
        values(table(name, content))


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: does not exist"):
        values(FileTable((str(tmp_path / "none.csv"),)))
    with pytest.raises(UserError, match="holds no rows"):
        values(FileTable(()))


def test_globs_and_constants(table, tmp_path):
    table("b.csv", "text\nb\n")
    table("a.csv", "text\na\n")
    both = FileTable((str(tmp_path / "*.csv"),), constants=(("label", "x"),))
    assert values(both) == [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]
    assert read_tables([both, both]) == [*read_table(both), *read_table(both)]
    with pytest.raises(UserError, match="already has a column 'text'"):
        values(FileTable((str(tmp_path / "*.csv"),), constants=(("text", "x"),)))


def test_rows_come_before_the_rest_is_read(table):
    broken = table("a.jsonl", '{"a": 1}\n' * 5 + "{")
    rows = read_table(broken)
    assert [next(rows).values for _ in range(5)] == [{"a": 1}] * 5
    with pytest.raises(UserError, match="line 6"):
        next(rows)


def test_lines_side_by_side(tmp_path):
    (tmp_path / "a.en").write_text("one\n\ntwo")
    (tmp_path / "a.de").write_text("eins\r\nnull\r\nzwei\r\n")
    paths = (str(tmp_path / "a.en"), str(tmp_path / "a.de"))
    assert values(LinesTable(paths, constants=(("c", "x"),))) == [
        {"source": "one", "target": "eins", "c": "x"},
        {"source": "", "target": "null", "c": "x"},
        {"source": "two", "target": "zwei", "c": "x"},
    ]
    (tmp_path / "a.de").write_text("eins\n")
    with pytest.raises(UserError, match=r"unequal length \(\S*a\.en 3, \S*a\.de 1\)"):
        values(LinesTable(paths))
    with pytest.raises(UserError, match="has 1 files for 2 columns"):
        values(LinesTable(paths[:1]))
    with pytest.raises(UserError, match=r"a\.\*: matches 2 files"):
        values(LinesTable((str(tmp_path / "a.*"), paths[0])))


def test_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class ToyTable(tfds.core.GeneratorBasedBuilder):
        """Three rows."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            text, label = tfds.features.Text(), tfds.features.ClassLabel(names=["bad", "good"])
            answers = tfds.features.Sequence({"text": text, "answer_start": np.int32})
            features = {
                "text": text,
                "label": label,
                "tags": tfds.features.Sequence(label),
                "pair": {"en": text, "de": text},
                "answers": answers,
                "score": np.float32,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield (
                    i,
                    {
                        "text": f"é {i}",
                        "label": i - 1,
                        "tags": [1, 0],
                        "pair": {"en": "two", "de": "zwei"},
                        "answers": [{"text": "é", "answer_start": 0}],
                        "score": 0.5,
                    },
                )

    ToyTable(data_dir=tmp_path).download_and_prepare(file_format="array_record")
    rows = list(read_table(TfdsTable("toy_table", data_dir=str(tmp_path))))
    assert rows[2].values == {
        "text": "é 2",
        "label": "good",
        "tags": ["good", "bad"],
        "pair/en": "two",
        "pair/de": "zwei",
        "answers": {"text": ["é"], "answer_start": [0]},
        "score": 0.5,
    }
    assert [row.values["label"] for row in rows] == [None, "bad", "good"]
    assert type(rows[0].values["score"]) is float
    assert len(list(read_table(TfdsTable("toy_table", "train[1:]", str(tmp_path))))) == 2
    assert "tensorflow" not in sys.modules


ROW = Row("a.csv line 2", {"text": "a", "n": "1.5", "none": None, "empty": " ", "list": [1]})


def test_values():
    assert text_at(ROW, "text") == "a"
    assert number_at(ROW, "n") == 1.5
    assert number_at(Row("", {"n": 3}), "n") == 3.0
    assert list_at(ROW, "list") == [1]
    assert list_at(Row("", {"l": " a  b\tc "}), "l") == ["a", "b", "c"]
    assert list_at(Row("", {"l": "a, b c,,"}), "l", ",") == ["a", "b c"]
    assert list_at(ROW, "empty") == []


@pytest.mark.parametrize(
    ("read", "column", "message"),
    [
        (text_at, "body", r"a.csv line 2: has no column 'body'; its columns are 'text', 'n'"),
        (text_at, "none", "a.csv line 2, column 'none': is missing, not text"),
        (text_at, "empty", "a.csv line 2, column 'empty': is empty"),
        (text_at, "list", "is a list, not text"),
        (number_at, "text", "column 'text': is 'a', not a number; fix"),
        (number_at, "list", "is a list, not a number"),
        (list_at, "none", "is missing, not a list"),
    ],
)
def test_wrong_values(read, column, message):
    with pytest.raises(UserError, match=message):
        read(ROW, column)


def test_odd_values():
    with pytest.raises(UserError, match="is nan, not a finite number"):
        number_at(Row("", {"n": float("nan")}), "n")
    with pytest.raises(UserError, match="is a truth value, not a number"):
        number_at(Row("", {"n": True}), "n")
    with pytest.raises(UserError, match="half a surrogate pair as character 1"):
        text_at(Row("", {"t": "a\ud800"}), "t")
    with pytest.raises(UserError, match="its first line holds no names, set the table's columns"):
        text_at(Row("", {"a fine film": "bad", "1": "0"}), "text")


def rows_of(count):
    return [Row(f"line {i}", {"text": f"text {i}", "group": i // 10}) for i in range(count)]


def test_a_division_hangs_on_contents_alone():
    rows = rows_of(2000)
    train, dev = split_rows(rows, 0.1)
    assert len(train) + len(dev) == 2000
    assert 150 < len(dev) < 250
    again = split_rows([Row("elsewhere", row.values) for row in reversed(rows[:1000])], 0.1)
    assert {row.values["text"] for row in again[1]} == {
        row.values["text"] for row in dev if int(row.values["text"][5:]) < 1000
    }
    assert {row.place for row in train}.isdisjoint(row.place for row in dev)
    assert split_rows(rows, 0.0) == (rows, [])
    larger = split_rows(rows, 0.3)[1]
    assert all(row in larger for row in dev), "a larger share holds the smaller one"


def test_groups_stay_together():
    train, dev = split_rows(rows_of(2000), 0.2, "group")
    assert dev
    assert not {row.values["group"] for row in train} & {row.values["group"] for row in dev}


def test_small_tables_have_a_row_to_measure_on():
    train, dev = split_rows(rows_of(3), 0.001)
    assert (len(train), len(dev)) == (2, 1)
    with pytest.raises(UserError, match="only one kind of row"):
        split_rows(rows_of(1), 0.1)
    with pytest.raises(UserError, match="only one value of 'group'"):
        split_rows(rows_of(5), 0.1, "group")
    with pytest.raises(UserError, match="line 0: has no column 'topic' to group by"):
        split_rows(rows_of(5), 0.1, "topic")
