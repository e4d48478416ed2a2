"""The command translate: what `predict` says of each sentence, in the document's structure."""

import io
import sys
from dataclasses import replace

import jax
import pytest

from llmjax.cli.main import main
from llmjax.errors import UserError
from llmjax.evaluation.predict import predict
from llmjax.inference.language_model import load
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.translation.glossary import Glossary, read_glossary
from llmjax.translation.translate import open_translator, translate
from task_runs import ENCODER_DECODER, tasked

ROWS = [{"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}]
SENTENCES = ["A first sentence.", "The second one!", "And a third", "Is there a last one?"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translation")
    return tasked(folder, SequenceTask(max_new_tokens=6), ROWS, ENCODER_DECODER)


@pytest.fixture(scope="module")
def lm(run):
    """With larger weights, for texts that differ."""
    made = load(run)
    return replace(made, params=jax.tree.map(lambda leaf: leaf * 8, made.params))


@pytest.fixture(scope="module")
def expected(lm):
    return [next(iter(predict(lm, text=sentence)))["text"] for sentence in SENTENCES]


def test_sentences_are_those_of_predict(lm, expected, tmp_path):
    text = f"{SENTENCES[0]}  {SENTENCES[1]}\n\n    {SENTENCES[2]}\n12\n{SENTENCES[3]}"
    (tmp_path / "in.txt").write_text(text)
    result = translate(lm, tmp_path / "in.txt", tmp_path / "out.txt")
    assert (result.texts, result.sentences) == (3, 4)
    written = (tmp_path / "out.txt").read_text()
    assert written == f"{expected[0]}  {expected[1]}\n\n    {expected[2]}\n12\n{expected[3]}"
    assert len(set(expected)) > 1


def test_long_sentences_are_split_and_joined(lm, caplog):
    translator = open_translator(lm)
    words = " ".join(f"word{number}" for number in range(40))
    assert translator.texts([words])[0]
    assert translator.sentences > 4
    assert "cut to" not in caplog.text
    assert translator.texts([]) == []
    assert translator.texts(["", " "]) == ["", " "]


def test_lines_are_translated_as_they_come(run, lm, expected, monkeypatch, capsys):
    translator = open_translator(lm)
    taken = []

    def typed():
        for sentence in SENTENCES:
            taken.append(sentence)
            yield f" {sentence}\n"

    stream = translator.lines(typed())
    assert next(stream) == f" {expected[0]}\n"
    assert taken == SENTENCES[:1]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{SENTENCES[2]}\n\n{SENTENCES[0]}"))
    assert main(["translate", str(run), "-", "-"]) == 0
    one, other = (next(iter(predict(run, text=SENTENCES[n])))["text"] for n in (2, 0))
    assert capsys.readouterr().out == f"{one}\n\n{other}"


def test_fixed_terms(lm, tmp_path, caplog):
    path = tmp_path / "terms.tsv"
    path.write_text("train\tZug\nnight train\tNachtzug\n")
    glossary = read_glossary(str(path))
    assert glossary.apply("The night train, a train; trains.") == "The Nachtzug, a Zug; trains."
    assert glossary.missing("a night train", "ein Nachtzug") == []
    assert glossary.missing("a train, a train", "nichts") == ["Zug"]
    assert Glossary({}).apply("train") == "train"
    translator = open_translator(lm, glossary=str(path))
    assert translator.texts(["a train"]) == [next(iter(predict(lm, text="a Zug")))["text"]]
    assert translator.missing == 1
    assert "Zug: not in the translation" in caplog.text
    path.write_text("train\tZug\n\nno tab\n")
    with pytest.raises(UserError, match=r"terms\.tsv line 3: is not a term and its translation"):
        read_glossary(str(path))


def test_mistakes(run, lm, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("text")
    with pytest.raises(UserError, match=r"in\.xyz: has no suffix of a document; those are \.txt"):
        translate(lm, tmp_path / "in.xyz", tmp_path / "out.txt")
    with pytest.raises(UserError, match=r"out\.md: is not named as \.txt"):
        translate(lm, tmp_path / "in.txt", tmp_path / "out.md")
    with pytest.raises(UserError, match="cannot be written"):
        translate(lm, tmp_path / "in.txt", tmp_path / "no" / "out.txt")
    assert main(["translate", str(run), "-", str(tmp_path / "out.txt")]) == 2
    assert "is for both IN and OUT, or neither" in capsys.readouterr().err
    rows = [{"text": "x", "label": "y"}, {"text": "z", "label": "w"}]
    other = tasked(tmp_path, ClassificationTask(), rows)
    with pytest.raises(UserError, match="does not generate text from text"):
        open_translator(other)
    assert not (tmp_path / "out.txt").exists()
