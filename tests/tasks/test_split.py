"""Training and validation rows: every label is trained on, the rest depends on contents."""

import pytest

from llmjax.data.tables.table import split_rows
from llmjax.tasks.classification import ClassificationTask
from llmjax.tasks.extractive_qa import ExtractiveQATask
from llmjax.tasks.metadata import TaskMetadata
from llmjax.tasks.multilabel import MultiLabelTask
from llmjax.tasks.regression import RegressionTask
from llmjax.tasks.split import describe, split_by_content
from llmjax.tasks.token_classification import TokenClassificationTask
from task_models import rows_of

KINDS = {
    "classification": (ClassificationTask(dev_fraction=0.3), "label", lambda label: label),
    "multilabel": (MultiLabelTask(dev_fraction=0.3), "labels", lambda label: f"common, {label}"),
    "tokens": (
        TokenClassificationTask(tokens="text", dev_fraction=0.3),
        "tags",
        lambda label: f"O {label} O",
    ),
}


def table(column, spelt, rare):
    """60 rows with labels x and y, and those of `rare` (row -> label)."""
    return rows_of(
        *(
            {"text": f"a {n} b", "group": n // 3, column: spelt(rare.get(n, "xy"[n % 2]))}
            for n in range(60)
        )
    )


def numbers(rows):
    return {int(row.values["text"].split()[1]) for row in rows}


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_of_held_out_rows_only_is_moved_to_training(kind):
    task, column, spelt = KINDS[kind]
    # The label is part of the hash, so one row with it is held out.
    chosen = next(
        n for n in range(60) if n in numbers(split_rows(table(column, spelt, {n: "rare"}), 0.3)[1])
    )
    rows = table(column, spelt, {chosen: "rare"})
    plain_learnt, plain_dev = split_rows(rows, 0.3)
    learnt, dev = split_by_content(task, rows)
    assert numbers(learnt) == numbers(plain_learnt) | {chosen}
    assert numbers(dev) == numbers(plain_dev) - {chosen}
    assert split_by_content(task, rows) == (learnt, dev)
    again = split_by_content(task, rows[::-1])
    assert (numbers(again[0]), numbers(again[1])) == (numbers(learnt), numbers(dev))


def test_contents_decide_if_all_labels_are_in_training():
    task, column, spelt = KINDS["classification"]
    rows = table(column, spelt, {})
    assert split_by_content(task, rows) == split_rows(rows, 0.3)
    numbers = RegressionTask(dev_fraction=0.3)
    assert split_by_content(numbers, rows) == split_rows(rows, 0.3)


def test_groups_stay_together_when_a_label_moves_one():
    task = ClassificationTask(dev_fraction=0.3, group="group")
    rows = table("label", str, {})
    first = min(numbers(split_rows(rows, 0.3, "group")[1]))
    learnt, dev = split_by_content(task, table("label", str, {first: "rare"}))
    assert numbers(learnt) >= {first, first + 1, first + 2}
    assert dev
    assert not {row.values["group"] for row in learnt} & {row.values["group"] for row in dev}


def test_class_weights_are_suggested_only_where_they_exist():
    facts = TaskMetadata(labels=("many", "few"), counts=(99, 1))
    (_, _, line) = describe(ClassificationTask(), facts, 90, 10)
    assert line == "rare labels: few; class_weights balanced may help"
    assert describe(TokenClassificationTask(), facts, 90, 10)[-1] == "rare labels: few"
    version_1 = TaskMetadata(labels=("answered", "unanswered"), counts=(50, 0))
    assert not any("rare" in note for note in describe(ExtractiveQATask(), version_1, 90, 10))
