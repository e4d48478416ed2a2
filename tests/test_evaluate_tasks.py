"""The verb evaluate on runs of tasks: what is printed, what is kept."""

import json

import pytest

from llmjax import run as run_module
from llmjax.evaluate import evaluate
from llmjax.language_model import load
from llmjax.tasks.config import ClassificationTask
from task_runs import tasked


def rows_of(counts):
    """Rows with so many of each label."""
    labels = [f"l{number:02}" for number, count in enumerate(counts) for _ in range(count)]
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def matrix(text):
    """The lines below the words of the confusion matrix, and its labels."""
    lines = text.split("\n\n")[1].splitlines()
    return lines[0].split("told")[1].split(), [line.split() for line in lines[1:]], lines[-1]


def test_a_folder_that_is_only_read_gives_its_figures(tmp_path, monkeypatch, command):
    run = tasked(tmp_path, ClassificationTask(), rows_of([3, 3]))

    def refuse(path, text):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(run_module, "write_atomically", refuse)
    code, out, err = command("evaluate", str(run.folder))
    assert code == 0
    assert "  accuracy " in out
    (line,) = (line for line in err if "measures.json" in line)
    assert line.endswith("cannot be written (Read-only file system): the report lacks these")
    code, out, _ = command("evaluate", str(run.folder), "--json")
    assert code == 0
    assert json.loads(out)["tasks"]["classification"]["examples"] == 6


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
