"""What may differ from a run's config when its tasks predict."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from llmjax.errors import UserError
from llmjax.tasks.task import Task


@dataclass(frozen=True)
class PredictOptions:
    """Fields of tasks' configs; None: as in the run's config."""

    no_answer_threshold: float | None = None
    """See `ExtractiveQATask`."""
    beams: int | None = None
    """See `SequenceTask`."""

    @property
    def overrides(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def apply(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks, each with those of the fields that it has.

        Raises:
          UserError: none of them has a field, or a value cannot be.
        """
        if self.beams is not None and self.beams < 1:
            raise UserError(f"beams {self.beams}", "is not positive")
        if self.no_answer_threshold is not None and math.isnan(self.no_answer_threshold):
            raise UserError("no_answer_threshold", "is not a number")
        for name in self.overrides:
            if not any(hasattr(task.config, name) for task in tasks):
                names = ", ".join(task.name for task in tasks)
                raise UserError(name, f"has no meaning for the task {names}", "leave it out")
        return [self._applied(task) for task in tasks]

    def _applied(self, task: Task) -> Task:
        names = {field.name for field in fields(task.config)}
        changes = {name: value for name, value in self.overrides.items() if name in names}
        if not changes:
            return task
        return replace(task.config, **changes).open(task.context, task.metadata)
