"""What a user may change of a trained task when it predicts or is evaluated."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from llmjax.errors import UserError
from llmjax.tasks.task import Task


@dataclass(frozen=True)
class TaskOverrides:
    """Fields of tasks that may differ from the run's config."""

    no_answer_threshold: float | None = None
    """Questions whose none_score is above this get no answer; none: as the run has it."""
    beams: int | None = None
    """Beams of tasks that write text; none: as the run has it."""

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_OVERRIDES = TaskOverrides()


def apply_overrides(tasks: Sequence[Task], overrides: TaskOverrides) -> list[Task]:
    """The tasks, each with those of the overrides that it has a field for.

    Raises:
      UserError: none of them has a field, or a value cannot be.
    """
    if overrides.beams is not None and overrides.beams < 1:
        raise UserError(f"beams {overrides.beams}", "is not positive")
    if overrides.no_answer_threshold is not None and math.isnan(overrides.no_answer_threshold):
        raise UserError("no_answer_threshold", "is not a number")
    for name in overrides.given:
        if not any(hasattr(task.config, name) for task in tasks):
            names = ", ".join(task.name for task in tasks)
            raise UserError(name, f"has no meaning for the task {names}", "leave it out")
    return [_changed(task, overrides) for task in tasks]


def _changed(task: Task, overrides: TaskOverrides) -> Task:
    names = {field.name for field in fields(task.config)}
    changes = {name: value for name, value in overrides.given.items() if name in names}
    if not changes:
        return task
    return replace(task.config, **changes).open(task.context, task.metadata)
