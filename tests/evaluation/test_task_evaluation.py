"""The verb evaluate on runs of tasks: what is printed, what is kept."""

import json

import numpy as np
import pytest

from llmjax.errors import UserError
from llmjax.evaluation.evaluate import evaluate
from llmjax.evaluation.predict import predict
from llmjax.inference.language_model import load
from llmjax.run import folder as run_module
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.sequence import SequenceTask
from task_runs import DECODER, tasked


def rows_of(counts):
    """Rows with so many of each label."""
    labels = [f"l{number:02}" for number, count in enumerate(counts) for _ in range(count)]
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def matrix(text):
    """The lines below the words of the confusion matrix, and its labels."""
    lines = text.split("\n\n")[1].splitlines()
    return lines[0].split("predicted")[1].split(), [line.split() for line in lines[1:]], lines[-1]


def test_a_folder_that_is_only_read_gives_its_figures(tmp_path, monkeypatch, command):
    run = tasked(tmp_path, ClassificationTask(), rows_of([3, 3]))

    def refuse(path, text):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(run_module, "write_atomically", refuse)
    code, out, err = command("evaluate", str(run.folder))
    assert code == 0
    assert "  accuracy " in out
    (line,) = (line for line in err if "measures.json" in line)
    assert line.endswith("cannot be written (Read-only file system): the report will lack it")
    code, out, _ = command("evaluate", str(run.folder), "--json")
    assert code == 0
    assert json.loads(out)["tasks"]["classification"]["examples"] == 6


@pytest.mark.once
@pytest.mark.parametrize("count", [3, 12, 14])
def test_the_most_frequent_labels_are_shown_and_counted(tmp_path, count):
    often = [1 + number for number in range(count)]
    found = evaluate(load(tasked(tmp_path, ClassificationTask(), rows_of(often)).folder))
    labels, lines, last = matrix(str(found))
    if count <= 12:
        assert labels == [f"l{number:02}" for number in range(count)]
        assert [sum(map(int, line[1:])) for line in lines] == often
    else:
        assert labels == [f"l{number:02}" for number in range(13, 1, -1)]
        assert [line[0] for line in lines[:-1]] == labels
        assert last == "  the 12 most frequent of 14 labels"


ASKED = {"question": "Where?", "context": "In Oslo."}
OSLO = [{"text": "Oslo", "answer_start": 3}]
QUESTIONS = [{**ASKED, "answers": known} for known in (OSLO, [], OSLO, [])]


@pytest.mark.once
def test_a_threshold_is_told_and_may_be_set(tmp_path, command):
    run = tasked(tmp_path, ExtractiveQATask(stride=8), QUESTIONS)
    kept = str(run.folder)
    code, out, _ = command("evaluate", kept)
    (line,) = (line for line in out.splitlines() if line.startswith("  best threshold"))
    assert code == 0
    assert " for f1 (0.5" in line
    assert " for exact_match (0.5" in line
    before = run.measures.read_bytes()
    for threshold, answered in (("-1e6", 0), ("1e6", 4)):
        words = ("--no-answer-threshold", threshold, "--json")
        tasks = json.loads(command("evaluate", kept, *words)[1])["tasks"]
        found = tasks["extractive_qa"]["metrics"]
        assert found["unanswered_accuracy"]["value"] == (0 if answered else 1)
        told = predict(kept, [tmp_path / "rows.jsonl"], no_answer_threshold=float(threshold))
        assert sum(bool(one["answer"]) for one in told) == answered
    assert run.measures.read_bytes() == before, "the report is of the run as it stands"


@pytest.mark.once
def test_beams_may_be_set(tmp_path):
    rows = [{"source": word, "target": word[::-1]} for word in ("one", "two", "three", "four")]
    lm = load(tasked(tmp_path, SequenceTask(max_new_tokens=4), rows, DECODER).folder)
    written = {}
    for beams in (1, 3):
        sources = [row["source"] for row in rows]
        options = {"max_new_tokens": 4, "temperature": 0.0, "beams": beams}
        texts = [completion.text.strip() for completion in lm.generate(sources, **options)]
        evaluated = evaluate(lm, beams=beams).tasks[0].result.predictions
        predicted = list(predict(lm, [tmp_path / "rows.jsonl"], beams=beams))
        assert [prediction["text"] for prediction in evaluated] == texts
        assert [prediction["text"] for prediction in predicted] == texts
        written[beams] = texts
    assert written[1] != written[3]
    assert [p["text"] for p in evaluate(lm).tasks[0].result.predictions] == written[1]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"beams": 0}, "beams 0: is not positive"),
        ({"no_answer_threshold": np.nan}, "no_answer_threshold: is not a number"),
        ({"beams": 2}, "beams: does not apply to the task classification; leave it out"),
    ],
)
def test_what_cannot_be_told_otherwise(tmp_path, how, message):
    lm = load(tasked(tmp_path, ClassificationTask(), rows_of([2, 2])).folder)
    for use in (lambda: evaluate(lm, **how), lambda: list(predict(lm, text=["a"], **how))):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value) == message
