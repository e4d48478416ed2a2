"""From configs to tasks: what they find in their examples, or what an earlier run found."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.storage.checksums import check_checksum, with_checksum
from llmjax.storage.json_documents import DOCUMENT, read_json
from llmjax.tasks.config import (
    AnswerTask,
    ChatTask,
    ClassificationTask,
    MultiLabelTask,
    PreferenceTask,
    RegressionTask,
    SequenceTask,
    SimilarityTask,
    TaskConfig,
    TokenTask,
    name_of,
)
from llmjax.tasks.heads import Network
from llmjax.tasks.task import Facts, Setting, Task

# Each in a module of its own, loaded when a task of its kind is opened.
HOMES: dict[type, tuple[str, str]] = {
    ClassificationTask: ("classification", "Classification"),
    MultiLabelTask: ("multilabel", "MultiLabel"),
    RegressionTask: ("regression", "Regression"),
    TokenTask: ("tokens", "Tokens"),
    AnswerTask: ("answers", "Answers"),
    SequenceTask: ("sequence", "Sequence"),
    ChatTask: ("chat", "Chat"),
    PreferenceTask: ("preference", "Preference"),
    SimilarityTask: ("similarity", "Similarity"),
}


def find_facts(config: TaskConfig, rows: Sequence[Row]) -> Facts:
    """What a task has to know of the rows to learn from.

    Raises:
      UserError: they cannot be learnt from.
    """
    found: Facts = _kind(config).find(config, rows)
    return found


def require_answers(config: TaskConfig, learnt: Sequence[Row], dev: Sequence[Row]) -> None:
    """Checks that rows to measure on have all that those to learn from need: measuring is too late
    to find that out.

    Args:
      config: of the task.
      learnt: rows from which it was found what the task has to know.
      dev: rows to measure on.

    Raises:
      UserError: one lacks its answer; it names row and column.
    """
    if dev:
        # Together, as few rows to measure on may have a single label.
        find_facts(config, [*learnt, *dev])


def open_task(config: TaskConfig, setting: Setting, facts: Facts) -> Task:
    """The task.

    Raises:
      UserError: it does not suit the model or the tokenizer.
    """
    task: Task = _kind(config)(setting, facts, config)
    return task


def network_of(model: Any, tasks: Sequence[Task]) -> Network:
    """The model with the heads of its tasks."""
    heads = [(name_of(task.config), task.head) for task in tasks]
    return Network(model, tuple((name, head) for name, head in heads if head is not None))


def _kind(config: TaskConfig) -> Any:
    module, name = HOMES[type(config)]
    return getattr(importlib.import_module(f"llmjax.tasks.{module}"), name)


def to_json(facts: Mapping[str, Facts]) -> str:
    """RUN/tasks.json: each task's facts, by its name."""
    plain = {name: one.to_dict() for name, one in facts.items()}
    return json.dumps(with_checksum(plain), indent=1, ensure_ascii=False) + "\n"


def read_facts(path: Path, configs: Sequence[TaskConfig]) -> list[Facts]:
    """The facts of these tasks, as a run kept them.

    Raises:
      UserError: the file is missing or damaged, was changed, or speaks of other tasks.
    """
    stored = read_json(path, limits=DOCUMENT, fix="restore it from a copy")
    try:
        facts = check_checksum(stored, path)
        return [Facts.from_dict(facts[name_of(config)]) for config in configs]
    except (AttributeError, ValueError, TypeError, KeyError) as error:
        raise UserError(path, f"cannot be used: {error!r}", "restore it from a copy") from error
