"""The configs of tasks that a run is evaluated on while it trains; cheap to import."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

NAME = re.compile(r"[^./\\\s*?\[\]]+")


@dataclass(frozen=True)
class ChooseTask:
    """Multiple choice by likelihood over files of questions, as `llmjax choose` measures it."""

    paths: tuple[str, ...] = ()
    """Files of questions, as `llmjax choose --data` takes them."""
    name: str = ""
    """Name of its metrics: NAME.accuracy and NAME.accuracy_per_byte. Empty: the first file's,
    without its ending."""
    every: int | None = None
    """Training steps between measurements; it is measured at the end as well. 0: only then. None:
    evaluation.every."""
    prompt: str = "{}"
    """The prompt before a choice; {} stands for the question."""
    delimiter: str = " "
    """Text between prompt and choice."""
    limit: int | None = None
    """Number of questions, from the first. None: all."""
    kind: Literal["choose"] = "choose"

    endings: ClassVar[tuple[str, ...]] = tuple(
        ".csv .tsv .tab .txt .json .jsonl .ndjson .parquet".split()
    )
    """File name suffixes that select this kind on the command line."""

    @property
    def metrics_name(self) -> str:
        """The name before the dot of its metrics."""
        return self.name or Path(*self.paths[:1]).name.partition(".")[0]

    def problems(self) -> Iterator[str]:
        """Yield the problems of the fields that this kind adds."""
        if not self.paths:
            yield "paths: empty; give at least one file of questions"
        if "{}" not in self.prompt:
            yield f"prompt: {self.prompt!r} has no placeholder for the question; add {{}}"
        if self.limit is not None and self.limit < 1:
            yield f"limit: {self.limit} is not positive"


@dataclass(frozen=True)
class HarnessTask:
    """A task of EleutherAI's lm-evaluation-harness, as `llmjax harness` measures it."""

    task: str = ""
    """A task, group or tag of the harness, such as arc_easy."""
    name: str = ""
    """Name of its metrics: NAME.acc; of the tasks of a tag NAME.TASK.acc. Empty: `task`."""
    every: int | None = None
    """Training steps between measurements; it is measured at the end as well. 0: only then. None:
    evaluation.every."""
    limit: float | None = None
    """Number of examples of each task, from the first; below 1: a fraction of them. None: all."""
    fewshot: int | None = None
    """Few-shot examples before each question. None: as the task specifies."""
    include_path: str | None = None
    """A folder with additional task files."""
    chat: bool = False
    """Whether to apply the model's chat template."""
    kind: Literal["harness"] = "harness"

    @property
    def metrics_name(self) -> str:
        """The name before the dot of its metrics."""
        return self.name or self.task

    def problems(self) -> Iterator[str]:
        """Yield the problems of the fields that this kind adds."""
        if not self.task:
            yield "task: empty; name a task, group or tag of the harness"
        if self.limit is not None and self.limit <= 0:
            yield f"limit: {self.limit} is not positive"
        if self.fewshot is not None and self.fewshot < 0:
            yield f"fewshot: {self.fewshot} is negative"


EvaluationTask: TypeAlias = ChooseTask | HarnessTask


def evaluation_task_problems(tasks: Sequence[EvaluationTask]) -> Iterator[str]:
    """Yield all problems of the configs; reads nothing from disk."""
    names = [task.metrics_name for task in tasks]
    for number, (task, name) in enumerate(zip(tasks, names, strict=True)):
        own = list(task.problems())
        if task.every is not None and task.every < 0:
            own.append(f"every: {task.every} is negative")
        if names.index(name) != number:
            own.append(f"name: {name} is already the name of another task")
        if name and not NAME.fullmatch(name):
            own.append(f"name: {name!r} contains a dot, a slash, a space or a wildcard; set a name")
        yield from (f"tasks.{number}.{problem}" for problem in own)
