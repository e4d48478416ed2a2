"""What runs of tasks are told before they begin, and what they begin with all the same."""

import json
from dataclasses import replace

import pytest
from test_task_training import (
    SMALL,
    WORDS,
    config,
    devices,  # noqa: F401 (a fixture)
    labels,
    numbers,
    reversed_words,
    table,
    validated,
)

from llmjax.data.config import DataConfig
from llmjax.data.tables.files import FileTable
from llmjax.data.tables.table import read_tables, split_rows
from llmjax.errors import UserError
from llmjax.optimizers.trainable import TrainHeads
from llmjax.run.folder import Run
from llmjax.scoring.config import EvaluationConfig
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.token_classification import TokenClassificationTask
from llmjax.training.train import train
from task_runs import DECODER, ENCODER_DECODER

pytestmark = [pytest.mark.usefixtures("devices"), pytest.mark.once]

# A task, a row to learn from, what another one has instead, and the column of the answer.
ANSWERED = {
    "multilabel": (MultiLabelTask(), {"text": "ab", "labels": "a,b"}, {"labels": "c"}, "labels"),
    "regression": (RegressionTask(), {"text": "ab", "score": 1.0}, {}, "score"),
    "tokens": (
        TokenClassificationTask(),
        {"tokens": "a b", "tags": "O O"},
        {"tags": "O X"},
        "tags",
    ),
    "answers": (
        ExtractiveQATask(),
        {"question": "a", "context": "b", "answers": {"text": ["b"], "answer_start": [0]}},
        {},
        "answers",
    ),
    "sequence": (SequenceTask(), {"source": "a", "target": "b"}, {}, "target"),
}


@pytest.mark.parametrize("kind", ANSWERED)
def test_rows_to_measure_on_have_answers_before_training_begins(tmp_path, kind):
    task, row, second, column = ANSWERED[kind]
    unanswered = {name: value for name, value in row.items() if name != column}
    tables = {}
    for name, rows in (("train", [row, row | second]), ("dev", [unanswered])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row_values) + "\n" for row_values in rows))
        tables[name] = (FileTable((str(path),)),)
    model = ENCODER_DECODER if kind == "sequence" else SMALL
    with pytest.raises(UserError, match=rf"dev\.jsonl line 1.*{column}"):
        train(config(tmp_path, replace(task, **tables), model=model))
    assert not Run(tmp_path / "run").steps()


LATE = [{"role": "user", "content": "q" * 99}, {"role": "assistant", "content": "a"}]
LATE = {"messages": [*LATE, {"role": "user", "content": "q" * 99}]}
SOON = {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]}
SAME = {"prompt": "a", "chosen": "b", "rejected": "b"}


@pytest.mark.parametrize(
    ("task", "train_rows", "dev_rows", "reason"),
    [
        (ChatTask(), [LATE], [SOON], r"1 of 1 examples have no target .*train\.jsonl line 1"),
        (ChatTask(), [SOON], [LATE], r"1 of 1 examples have no target .*dev\.jsonl line 1"),
        (PreferenceTask(), [SAME, SAME], [], "all 2 examples have weight 0"),
    ],
)
def test_examples_that_teach_nothing_are_named_before_training_begins(
    tmp_path, task, train_rows, dev_rows, reason
):
    tables = {}
    for name, rows in (("train", train_rows), ("dev", dev_rows)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tables[name] = (FileTable((str(path),)),) if rows else ()
    full_task = replace(task, **tables, dev_fraction=0.0)
    data = DataConfig(batch_size=8, length=32, cache_dir=str(tmp_path / "cache"), workers=1)
    with pytest.raises(UserError, match=reason):
        train(config(tmp_path, full_task, model=DECODER, data=data))
    assert not Run(tmp_path / "run").steps()


def test_figures_of_several_tasks_have_names_though_one_alone_is_measured(tmp_path):
    tasks = validated(labels(tmp_path)), numbers(tmp_path)
    by = EvaluationConfig(every=0, batch_size=8, metric="accuracy")
    with pytest.raises(UserError, match=r"choose one of loss, classification\.accuracy"):
        train(config(tmp_path, *tasks, evaluation=by))
    named = replace(by, metric="classification.accuracy")
    assert train(config(tmp_path, *tasks, evaluation=named))


def test_where_nothing_learns_training_does_not_begin(tmp_path):
    begins = config(
        tmp_path, reversed_words(tmp_path), model=ENCODER_DECODER, trainable=TrainHeads()
    )
    with pytest.raises(UserError, match="heads: nothing is trained: no task here has a head"):
        train(begins)
    assert not Run(tmp_path / "run").steps()


def test_a_label_whose_rows_would_all_be_held_out_is_learnt(tmp_path):
    def held_out(word):
        rows = read_tables(_alone(tmp_path, word).train)
        return word in {row.values["text"] for row in split_rows(rows, 0.4)[1]}

    task = _alone(tmp_path, next(filter(held_out, WORDS)))
    run = train(config(tmp_path, replace(task, dev_fraction=0.4)))
    stored = json.loads(Run.open(run).tasks.read_text())["classification"]
    assert stored["labels"] == ["alone", "other", "others"]
    assert stored["counts"][0] == 1


def _alone(folder, alone):
    """A task in which one word has a label of its own."""

    def label(word):
        return "alone" if word == alone else "other" if word[0] < "c" else "others"

    return ClassificationTask(train=table(folder, "alone", label=label))
