"""A stage of datatrove: tasks that may run at the same time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ERRORS = "errors"
"""Folder of a stage's logs with a file for each task that met a user's mistake."""


@dataclass(frozen=True)
class Stage:
    """Tasks that may run at the same time, each with a copy of the pipeline."""

    name: str
    """In letters and dashes, for messages and job names."""
    pipeline: tuple[Any, ...]
    """datatrove's PipelineSteps."""
    tasks: int
    logs: Path
    """Folder of datatrove's logs, statistics and marks of completed tasks; all nodes share it."""
