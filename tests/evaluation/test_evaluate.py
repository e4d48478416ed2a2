"""The command evaluate: validation documents, all kinds of files, and errors."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

import llmjax
from llmjax.data.text.corpus import prepare, validation_text
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.errors import UserError
from llmjax.evaluation.evaluate import Evaluation, evaluate
from llmjax.inference.language_model import LanguageModel, load
from toy import LetterTokenizer
from untrained import TEXTS, make_run

TEXT = "First line, né 🙂.\r\n\n" + "Another paragraph of words.\n\n" * 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def lm(run):
    return load(run.folder)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(TEXT.encode())
    return path


def figures(result: Evaluation):
    """All results that do not depend on clock or paths."""
    actual = result.to_dict()
    return [actual[k] for k in actual if k not in ("run", "data", "seconds", "tokens_per_second")]


def test_the_validation_documents_of_the_run(run, lm):
    result = evaluate(run.folder)
    _, corpus = prepare(lm.config.data, lm.config.tokenizer, run.tokenizer)
    heldout = validation_text(corpus).decode()
    kept = [text for text in set(TEXTS) if text.rstrip("\n") in heldout]
    score = result.score
    assert 2 < score.documents < len(TEXTS)
    assert score.documents == len(kept)
    assert score.bytes == len(heldout.encode())
    assert score.tokens == score.bytes + score.documents, "a token for each byte and each end"
    assert (score.context, score.stride) == (32, 16), "as the run was trained, half overlapping"
    assert result.lossless
    assert result.step == 7
    assert evaluate(run.folder, step=3).score.nats != score.nats
    assert figures(llmjax.evaluate(lm)) == figures(result)


def test_a_file_is_a_document(lm, file):
    result = evaluate(lm, data=file, context=16, stride=4)
    assert result.score.documents == 1
    assert result.score.bytes == len(TEXT.encode())
    expected = lm.score(TEXT, context=16, stride=4)
    assert result.score.nats == pytest.approx(expected.total.nats, rel=1e-6)
    assert result.score.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)


def test_long_files_are_read_in_pieces(lm, file, monkeypatch):
    full = evaluate(lm, data=file)
    monkeypatch.setattr("llmjax.evaluation.evaluate.CHUNK", 7)
    assert figures(evaluate(lm, data=file)) == figures(full)


def test_several_files_and_compressed_ones(lm, file):
    packed = file.with_suffix(".txt.gz")
    packed.write_bytes(gzip.compress(TEXT.encode()))
    (file.parent / "empty.txt").write_text("")
    one = evaluate(lm, data=str(file))
    both = evaluate(lm, data=[str(file.parent / "some*"), str(file.parent / "empty.txt")])
    assert both.score.bytes == 2 * one.score.bytes
    assert both.score.documents == 3
    assert both.score.nats > 2 * one.score.nats, "an empty document has an end, too"


def test_sources_are_documents_each(lm, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS[:6]))
    result = evaluate(lm, data=JsonlSource(paths=(str(path),), field="body"))
    expected = [lm.score(text).total for text in TEXTS[:6]]
    assert result.score.documents == 6
    assert result.score.bytes == sum(score.bytes for score in expected)
    assert result.score.nats == pytest.approx(sum(score.nats for score in expected), rel=1e-5)
    plain = tmp_path / "lines.txt"
    plain.write_text("".join(TEXTS[:6]))
    lines = evaluate(lm, data=[TextSource(paths=(str(plain),), split="line")])
    assert lines.score.documents == 6


def test_the_validation_text_is_written_for_other_programs(run, lm, tmp_path):
    out = tmp_path / "unseen.txt"
    result = evaluate(lm, save_text=str(out))
    _, corpus = prepare(lm.config.data, lm.config.tokenizer, run.tokenizer)
    assert out.read_bytes() == validation_text(corpus)
    assert len(out.read_bytes()) == result.bytes
    evaluate(lm, save_text=str(out))
    out.write_text("mine")
    with pytest.raises(UserError, match=r"unseen.txt: exists, with other content"):
        evaluate(lm, save_text=str(out))
    assert out.read_text() == "mine"
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(lm, save_text=str(tmp_path / "none" / "unseen.txt"))
    with pytest.raises(UserError, match="applies to a validation set"):
        evaluate(lm, save_text=str(out), data=out)


def test_what_cannot_be_scored_is_refused(lm, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"fine so far \xff and on")
    with pytest.raises(UserError, match=r"bad.txt: is not UTF-8: byte 0xff at offset 12"):
        evaluate(lm, data=bad)
    with pytest.raises(UserError, match="does not exist"):
        evaluate(lm, data=tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="is empty; give at least one byte"):
        evaluate(lm, data=tmp_path / "empty.txt")
    with pytest.raises(UserError, match="context 65"):
        evaluate(lm, data=bad, context=65)
    for wrong in ({"context": 0}, {"stride": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} 0"):
            evaluate(lm, data=tmp_path / "empty.txt", **wrong)
    with pytest.raises(UserError, match="no such run"):
        evaluate(tmp_path / "nothing")


def test_a_run_that_holds_nothing_out_wants_a_file(lm):
    data = replace(lm.config.data, validation_fraction=0.0)
    bare = replace(lm, config=replace(lm.config, data=data))
    with pytest.raises(UserError, match="--data"):
        evaluate(bare)


def test_a_lossy_tokenizer_is_reported(lm, tmp_path):
    class Lower(LetterTokenizer):
        def encode(self, text):
            return super().encode(text.lower())

    path = tmp_path / "case.txt"
    path.write_text("abcABC")
    lossy = LanguageModel(lm.model, lm.params, Lower(list("abc")), lm.config)
    result = evaluate(lossy, data=path)
    assert not result.lossless
    assert "does not reproduce this text" in str(result)
    assert evaluate(replace(lossy, tokenizer=LetterTokenizer(list("abcABC"))), data=path).lossless


def test_a_tokenizer_that_adds_a_space_encodes_files_in_one_piece(lm, file, monkeypatch):
    class Spaced(LetterTokenizer):
        def encode(self, text):
            return super().encode(" " + text)

        def decode_bytes(self, ids):
            return super().decode_bytes(ids).removeprefix(b" ")

    monkeypatch.setattr("llmjax.evaluation.evaluate.CHUNK", 7)
    spaced = replace(lm, tokenizer=Spaced(sorted(set(TEXT) | {" "})))
    result = evaluate(spaced, data=file)
    assert result.lossless
    assert result.score.tokens == len(TEXT) + 2, "one space and one end, not one for each piece"


def test_the_table_and_the_dictionary_say_the_same(lm, file):
    calls = []
    result = evaluate(lm, data=file, progress=lambda *args: calls.append(args))
    table, figures = str(result), result.to_dict()
    json.dumps(figures)
    assert figures["bits_per_byte"] == result.score.bits_per_byte
    assert figures["loss"] == figures["nats"] / figures["tokens"]
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    assert f"{figures['bits_per_byte']:.4f}" in table
    assert f"{figures['bytes']:,} bytes" in table
    assert str(file) in table
    assert calls


def test_intervals_of_text_are_shown_where_there_are_documents(run, lm, file):
    result = evaluate(run.folder)
    figures, table = result.to_dict(), str(result)
    for name in ("bits_per_byte", "loss", "perplexity"):
        between = figures["intervals"][name]
        assert between["low"] < figures[name] < between["high"]
    low, high = figures["intervals"]["bits_per_byte"].values()
    assert f"{figures['bits_per_byte']:.4f}   ({low:.4f} to {high:.4f})" in table
    assert "95 %, bootstrap resampling of documents" in table
    json.dumps(figures, allow_nan=False)
    alone = evaluate(lm, data=file)
    assert alone.to_dict()["intervals"] == {}
    assert "95 %" not in str(alone)
