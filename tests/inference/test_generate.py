"""The command generate: prompts from all sources, text streamed in order."""

import gzip
import io
import json
import sys

import pytest

from llmjax.decoding.completions import Piece
from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError
from llmjax.inference.generate import generate, read_prompts, write
from llmjax.inference.language_model import load
from untrained import make_run

HOW = DecodingConfig(max_new_tokens=6, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("generate"))


@pytest.fixture(scope="module")
def lm(run):
    return load(run.folder)


def test_a_run_folder_or_a_model_in_hand(run, lm):
    result = generate(run.folder, ["ab", "c"], HOW)
    assert (
        result
        == generate(lm, ["ab", "c"], max_new_tokens=6, seed=1)
        == lm.generate(["ab", "c"], HOW)
    )
    assert generate(run.folder, "ab", HOW, step=3)[0].tokens != result[0].tokens
    assert [completion.prompt for completion in generate(lm, options=HOW)] == [""]


def test_one_prompt_is_written_as_it_comes(lm):
    class Out(io.StringIO):
        flushes = 0

        def flush(self):
            self.flushes += 1

    out = Out()
    (completion,) = generate(lm, "ab", HOW, out=out)
    assert out.getvalue() == f"ab{completion.text}\n"
    assert out.flushes >= 2


def test_several_are_written_in_their_order(lm):
    out = io.StringIO()
    first, second, third, fourth = generate(lm, ["ab", "c"], HOW, samples=2, out=out)
    assert out.getvalue() == f"[1.1] {first}\n\n[1.2] {second}\n\n[2.1] {third}\n\n[2.2] {fourth}\n"


def test_later_texts_wait_for_their_turn():
    out, done = io.StringIO(), object()
    pieces = [
        Piece(1, "x"),
        Piece(0, "a"),
        Piece(2, "m", done),
        Piece(1, "y", done),
        Piece(0, "b"),
        Piece(0, "", done),
    ]
    shown = []
    for _ in write(iter(pieces), ["P ", "Q ", "R "], 1, out):
        shown.append(out.getvalue())
    assert shown[1] == "[1] P a"
    assert shown[4] == "[1] P ab"
    assert shown[5] == "[1] P ab\n\n[2] Q xy\n\n[3] R m\n"


def test_prompts_of_a_file(lm, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("ab\n\n  c \r\n🙂".encode())
    assert read_prompts(path) == ["ab", "  c ", "🙂"]
    texts = [completion.prompt for completion in generate(lm, "first", HOW, file=path)]
    assert texts == ["first", "ab", "  c ", "🙂"]
    lines = tmp_path / "prompts.jsonl"
    lines.write_text(json.dumps("two\nlines") + "\n" + json.dumps({"prompt": "b", "id": 1}) + "\n")
    assert read_prompts(lines) == ["two\nlines", "b"]


def test_prompts_of_standard_input(monkeypatch):
    class Input:
        buffer = io.BytesIO("ab\n🙂\n".encode())

    monkeypatch.setattr(sys, "stdin", Input)
    assert read_prompts("-") == ["ab", "🙂"]


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path, monkeypatch):
    mark = b"\xef\xbb\xbf"
    for name, content in (("a.txt", b"ab\nc\n"), ("a.jsonl", b'"ab"\n{"prompt": "c"}\n')):
        (tmp_path / name).write_bytes(mark + content)
        assert read_prompts(tmp_path / name) == ["ab", "c"]
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(mark + content))
        assert read_prompts(tmp_path / f"{name}.gz") == ["ab", "c"]

    class Input:
        buffer = io.BytesIO(mark + b"ab\nc")

    monkeypatch.setattr(sys, "stdin", Input)
    assert read_prompts("-") == ["ab", "c"]


def test_what_cannot_be_read_is_refused(tmp_path):
    def of(name, content):
        (tmp_path / name).write_bytes(content)
        return read_prompts(tmp_path / name)

    with pytest.raises(UserError, match="contains no prompt"):
        of("empty.txt", b"\n \n")
    with pytest.raises(UserError, match="offset 3"):
        of("bad.txt", b"ab\n\xff\n")
    with pytest.raises(UserError, match=r"x\.jsonl:2: is not JSON"):
        of("x.jsonl", b'"a"\n{"prompt"\n')
    with pytest.raises(UserError, match=r"y\.jsonl:1: contains no prompt"):
        of("y.jsonl", b'{"text": "a"}\n')
    with pytest.raises(UserError, match=r"w\.txt: is UTF-16, not UTF-8"):
        of("w.txt", "ab".encode("utf-16"))
    with pytest.raises(UserError, match=r"d\.jsonl:1: has JSON nested more than 100 deep"):
        of("d.jsonl", b"[" * 100_000)
    with pytest.raises(UserError, match=r"t\.jsonl:1: .*the name 'prompt' appears twice"):
        of("t.jsonl", b'{"prompt": "a", "prompt": "b"}')
    with pytest.raises(UserError, match=r"none\.txt"):
        read_prompts(tmp_path / "none.txt")
