"""What measuring a task found, as plain data: for JSON, and for the report page."""

from typing import Any

from llmjax.tasks.config import TaskConfig
from llmjax.tasks.mistakes import mistakes
from llmjax.tasks.prepared import Answered

HELD_OUT = "what it holds out"
"""Where rows are from that a task does not learn from."""


def findings(config: TaskConfig, answered: Answered, data: str = HELD_OUT) -> dict[str, Any]:
    """The figures with their intervals, tables, and the worst mistakes.

    Args:
      config: of the task.
      answered: rows with what a model said of them.
      data: where the rows are from.
    """
    measures = answered.measures
    worst = mistakes(config, answered.rows, answered.predictions) if measures else []
    return {
        "kind": config.kind,
        "data": data,
        "loss": answered.sums.loss,
        **(measures.to_dict() if measures else {}),
        "mistakes": [miss._asdict() for miss in worst],
    }
