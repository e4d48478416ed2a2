"""JSON within limits on size, number of values and depth."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits, parse_json, read_json

SMALL = JsonLimits(size=1000, marks=20, depth=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.once
@given(values, st.booleans())
def test_what_json_writes_is_read_back(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text, "x") == value
    if not any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        assert parse_json(b"\xef\xbb\xbf" + text.encode(), "x") == value


@pytest.mark.parametrize("kind", ["[", '{"a":'])
def test_nesting_is_refused_from_one_level_beyond_the_limit(kind):
    end = "]" if kind == "[" else "}"
    at_limit = kind * 5 + "1" + end * 5
    assert parse_json(at_limit, "x", limits=SMALL) is not None
    with pytest.raises(UserError, match="nested more than 5 deep"):
        parse_json(kind + at_limit + end, "x", limits=SMALL)


def test_a_million_brackets_are_one_line():
    with pytest.raises(UserError, match="nested more than 100 deep"):
        parse_json("[" * 10**6 + "]" * 10**6, "x", limits=JsonLimits(2**22, 2**22))


def test_sizes_are_looked_at_before_values_are_made():
    with pytest.raises(UserError, match=r"x: has 1.95\d* KiB of JSON, and at most 1000 bytes"):
        parse_json("[" + " " * 2000 + "]", "x", limits=SMALL)
    with pytest.raises(UserError, match=r"more than 20 JSON values"):
        parse_json(b"[" + b"[]," * 20 + b"[]]", "x", limits=SMALL)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff", "is not UTF-8"),
        ("{", "is not JSON"),
        ("1" * 5000, "is not JSON"),
        ("[1,]", "is not JSON"),
        ("", "is not JSON"),
    ],
)
def test_what_is_no_json_is_one_line(text, reason):
    with pytest.raises(UserError, match=reason):
        parse_json(text, "x")


def test_names_twice_are_refused_where_asked():
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}
    with pytest.raises(UserError, match="'a' appears twice"):
        parse_json('{"b": {"a": 1, "c": 0, "a": 2}}', "x", unique=True)


def test_files_are_read_within_the_same_limits(tmp_path):
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    path.write_text("[" + " " * 2000 + "]")
    with pytest.raises(UserError, match="at most 1000 bytes"):
        read_json(path, limits=SMALL)
