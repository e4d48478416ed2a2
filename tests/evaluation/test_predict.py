"""The command predict: the columns it reads, and errors."""

import csv
import json
import os

import jax
import pytest

from llmjax.cli.main import main
from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.evaluation.predict import predict
from llmjax.inference.language_model import load
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.token_classification import TokenClassificationTask
from task_runs import DECODER, ENCODER, table, tasked

ASKED = {"question": "Where?", "context": "In Oslo."}
KINDS = {
    "classification": (
        ClassificationTask(),
        ENCODER,
        [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}],
        ("label", [None, "", "new", 1.5]),
    ),
    "multilabel": (
        MultiLabelTask(),
        ENCODER,
        [{"text": "good", "labels": ["a", "b"]}, {"text": "bad", "labels": ["a"]}],
        ("labels", [None, 3, ["new"]]),
    ),
    "regression": (
        RegressionTask(),
        ENCODER,
        [{"text": "good", "score": 1}, {"text": "bad", "score": 2}],
        ("score", [None, "", "many"]),
    ),
    "tokens": (
        TokenClassificationTask(),
        ENCODER,
        [{"tokens": "a b", "tags": "X Y"}, {"tokens": "b", "tags": "Y"}],
        ("tags", [None, "", "X Y X", "NEW"]),
    ),
    "answers": (
        ExtractiveQATask(stride=8),
        ENCODER,
        [{**ASKED, "answers": [{"text": "Oslo", "answer_start": 3}]}],
        ("answers", [None, "Oslo", [{"text": "Rome", "answer_start": 3}]]),
    ),
    "sequence": (
        SequenceTask(max_new_tokens=2),
        DECODER,
        [{"source": "one", "target": "eins"}, {"source": "two", "target": "zwei"}],
        ("target", [None, "", 5]),
    ),
}


def alike(one, other):
    """Equal up to rounding, which depends on the packing."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(a == (b if isinstance(b, str) else pytest.approx(b, rel=1e-3)) for a, b in pairs)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_never_read(tmp_path, kind):
    task, model, rows, (column, odd) = KINDS[kind]
    lm = load(tasked(tmp_path, task, rows, model).folder)
    bare = {name: value for name, value in rows[0].items() if name != column}
    bad = [{**bare, column: value} for value in odd]
    name = table(tmp_path / "bad.jsonl", [rows[0], *bad, bare])
    predictions = list(predict(lm, [name]))
    assert [prediction.pop("row") for prediction in predictions] == [
        f"{name.paths[0]} line {number}" for number in range(1, len(odd) + 3)
    ]
    first, *others = predictions
    assert all(alike(item, first) for item in others)
    with pytest.raises(UserError, match=f"bad.jsonl line 2.*{column}"):
        evaluate(lm, data=[name])


def test_empty_labels_of_a_csv_file(tmp_path):
    task, model, rows, _ = KINDS["classification"]
    lm = load(tasked(tmp_path, task, rows, model).folder)
    with open(tmp_path / "test.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), ("good", ""), ("bad", "")])
    predictions = list(predict(lm, [str(tmp_path / "test.csv")]))
    assert [prediction["label"] in ("yes", "no") for prediction in predictions] == [True, True]
    json.dumps(predictions, allow_nan=False)


def test_a_table_whose_name_is_not_utf_8(tmp_path, capsys):
    rows = [{"text": "fine", "label": "good"}, {"text": "poor", "label": "bad"}]
    run = tasked(tmp_path, ClassificationTask(), rows)
    name = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(name, "w") as file:
        file.write("text\nfine\n")
    assert main(["predict", str(run.folder), "--data", os.fsdecode(name)]) == 0
    out = capsys.readouterr().out
    assert out.encode("utf-8"), "what a terminal takes"
    assert os.fsdecode(name) in json.loads(out)["row"]


def test_a_column_that_is_given_too_is_read(tmp_path):
    rows = [{"text": "one"}, {"text": "two"}]
    task = SequenceTask(source="text", target="text", max_new_tokens=2)
    lm = load(tasked(tmp_path, task, rows, DECODER).folder)
    assert "text" in next(predict(lm, [table(tmp_path / "new.jsonl", rows)]))


TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("task", "row", "line"),
    [
        (
            ChatTask(),
            {"messages": TALK},
            "--text: task chat reads conversations, not texts; "
            "name a table with --data, or talk with it: llmjax chat RUN",
        ),
        (
            PreferenceTask(name="better"),
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "--text: task better reads prompts with two answers each, not texts; "
            "name a table with --data",
        ),
        (
            ClassificationTask(label="prompt"),
            {"text": "a", "prompt": "b"},
            "2 texts: task classification reads 1: text; give --text once for each",
        ),
    ],
)
def test_texts_that_a_task_does_not_read(tmp_path, task, row, line):
    others = [{**row, "prompt": "c"}]  # two labels
    lm = load(tasked(tmp_path, task, [row, *others], DECODER).folder)
    with pytest.raises(UserError) as caught:
        next(predict(lm, text=["Hi", "there"]))
    assert str(caught.value) == line
