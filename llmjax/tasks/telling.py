"""How a task tells its answers: what may differ from the run's config when it is used."""

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from llmjax.errors import UserError
from llmjax.tasks.config import name_of
from llmjax.tasks.opening import open_task
from llmjax.tasks.task import Task


class Telling(NamedTuple):
    """Fields of tasks; None: as the run has them.

    Attributes:
      no_answer_threshold: see AnswerTask.
      beams: see SequenceTask.
    """

    no_answer_threshold: float | None = None
    beams: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in self._asdict().items() if value is not None}


AS_TRAINED = Telling()


def telling_so(tasks: Sequence[Task], telling: Telling) -> list[Task]:
    """The tasks, each with those of the fields that it has.

    Raises:
      UserError: none of them has a field, or a value cannot be.
    """
    if telling.beams is not None and telling.beams < 1:
        raise UserError(f"beams {telling.beams}", "is not positive")
    if telling.no_answer_threshold is not None and math.isnan(telling.no_answer_threshold):
        raise UserError("no_answer_threshold", "is not a number")
    for name in telling.given:
        if not any(hasattr(task.config, name) for task in tasks):
            names = ", ".join(name_of(task.config) for task in tasks)
            raise UserError(name, f"has no meaning for the task {names}", "leave it out")
    return [_changed(task, telling) for task in tasks]


def _changed(task: Task, telling: Telling) -> Task:
    known = {field.name for field in fields(task.config)}
    own = {name: value for name, value in telling.given.items() if name in known}
    if not own:
        return task
    return open_task(replace(task.config, **own), task.setting, task.facts)
