"""Evaluation of a run on tasks while it trains: on its live parameters, by the code of `llmjax
choose` and `llmjax harness`.

All processes measure alike, each with its part of the parameters. Questions and tasks are read and
checked before training starts, and kept.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from llmjax.errors import UserError
from llmjax.evaluation.choose import (
    ChooseOptions,
    Question,
    choose_among,
    question_pairs,
    read_questions,
)
from llmjax.evaluation.harness import HarnessOptions, LoadedTasks, load_tasks, run_tasks
from llmjax.inference.language_model import LanguageModel
from llmjax.run.checkpoint.reading import process_0_first
from llmjax.run.config.schema import Config
from llmjax.scoring.evaluation_tasks import ChooseTask, EvaluationTask, HarnessTask


class TaskScore(NamedTuple):
    """A metric of a task.

    Attributes:
      name: TASK.METRIC.
      value: over all examples; None if it is not a number.
      stderr: its standard error; None if unknown.
      larger_is_better: its direction; None if unknown.
    """

    name: str
    value: float | None
    stderr: float | None
    larger_is_better: bool | None = True


@dataclass(frozen=True)
class TaskScores:
    """What a task measured.

    Attributes:
      scores: its metrics.
      constants: other numbers by name: examples, and what guessing would give.
    """

    scores: tuple[TaskScore, ...]
    constants: dict[str, float | None]

    def record(self) -> dict[str, float | None]:
        """Values by name, as logged; standard errors are named TASK.METRIC_stderr."""
        values: dict[str, float | None] = {}
        for score in self.scores:
            values |= {score.name: score.value, f"{score.name}_stderr": score.stderr}
        return values | self.constants


class InRunTask(ABC):
    """A task with its data, ready to be measured.

    Attributes:
      config: its config.
      every: steps between measurements; 0: only at the end.
    """

    config: EvaluationTask
    every: int

    @property
    @abstractmethod
    def metrics(self) -> frozenset[str]:
        """What may follow the last dot of its metrics' names."""

    @abstractmethod
    def measure(self, lm: LanguageModel) -> TaskScores:
        """Measures a model.

        Raises:
          Interrupted: as a check between batches asked for.
        """

    def is_due(self, step: int, last: bool) -> bool:
        """Whether it is measured after a step, or if that is the last one."""
        return last or (self.every > 0 and step % self.every == 0)


@dataclass(frozen=True, eq=False)
class InRunChoice(InRunTask):
    """Questions of multiple choice."""

    config: ChooseTask
    every: int
    questions: Sequence[Question]
    options: ChooseOptions

    metrics = frozenset({"accuracy", "accuracy_per_byte"})

    def measure(self, lm: LanguageModel) -> TaskScores:
        name = self.config.metrics_name
        result = choose_among(lm, self.questions, self.options)
        assert result.measures is not None  # `open_task` wants answers
        count = result.measures.examples
        scores = tuple(
            TaskScore(f"{name}.{metric.name}", metric.value, share_stderr(metric.value, count))
            for metric in result.measures.metrics
        )
        return TaskScores(scores, {f"{name}.examples": count, f"{name}.chance": result.chance})


@dataclass(frozen=True, eq=False)
class InRunHarness(InRunTask):
    """Tasks of the harness."""

    config: HarnessTask
    every: int
    tasks: LoadedTasks
    options: HarnessOptions

    @property
    def metrics(self) -> frozenset[str]:
        return self.tasks.metrics

    def measure(self, lm: LanguageModel) -> TaskScores:
        results = run_tasks(lm, self.tasks, self.options, quiet=True)
        return harness_scores(self.config, results)


def share_stderr(share: float, count: int) -> float | None:
    """The standard error of the mean of `count` zeros and ones, as the harness computes it."""
    return math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else None


def harness_scores(config: HarnessTask, results: Mapping[str, Any]) -> TaskScores:
    """The metrics in results of the harness: of the task or group that the config names, or of all
    tasks of its tag.

    The harness names values METRIC,FILTER. The filter "none" is left out of our names; another one
    comes before the metric.
    """
    found, name = results["results"], config.metrics_name
    named = {config.task: name} if config.task in found else {t: f"{name}.{t}" for t in found}
    scores: list[TaskScore] = []
    constants: dict[str, float | None] = {}
    for task, prefix in named.items():
        directions = results["higher_is_better"].get(task, {})
        values = {key: value for key, value in found[task].items() if "," in key}
        for key, value in values.items():
            metric, _, chosen = key.partition(",")
            if metric.endswith("_stderr"):
                continue
            where = prefix if chosen == "none" else f"{prefix}.{chosen}"
            stderr = _number(values.get(f"{metric}_stderr,{chosen}"))
            direction = directions.get(metric)
            scores.append(TaskScore(f"{where}.{metric}", _number(value), stderr, direction))
        constants[f"{prefix}.examples"] = _number(found[task].get("sample_len"))
    return TaskScores(tuple(scores), constants)


def _number(value: Any) -> float | None:
    """A number of the harness, which writes N/A for unknown ones, as a finite one."""
    if isinstance(value, str) or value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(value)


def open_tasks(lm: LanguageModel) -> tuple[InRunTask, ...]:
    """Reads the tasks of evaluation.tasks, and checks them and evaluation.metric.

    Args:
      lm: the model, whose parameters are not used.

    Raises:
      UserError: a file cannot be read, or a question does not fit the model; a task of the harness
        is unknown; the metric is not measured.
    """
    configs = lm.config.evaluation.tasks
    if not configs:
        return ()
    opened = process_0_first(
        "evaluation tasks read", lambda: tuple(open_task(task, lm) for task in configs)
    )
    _check_metric(lm.config, opened)
    return opened


def open_task(config: EvaluationTask, lm: LanguageModel) -> InRunTask:
    """Reads a task; `lm` needs no parameters."""
    evaluation = lm.config.evaluation
    every, rows = config.every, evaluation.batch_size
    every = evaluation.every if every is None else every
    match config:
        case ChooseTask():
            options = ChooseOptions(
                data=config.paths,
                prompt=config.prompt,
                delimiter=config.delimiter,
                limit=config.limit,
                batch_size=rows,
            )
            questions = read_questions(options)
            if all(question.answer is None for question in questions):
                reason = "no question has an answer, so there is no accuracy"
                raise UserError(", ".join(config.paths), reason, 'give each line an "answer"')
            question_pairs(lm, questions, options)  # raises if one does not fit the model
            return InRunChoice(config, every, questions, options)
        case HarnessTask():
            settings = HarnessOptions(
                tasks=(config.task,),
                include_path=config.include_path,
                limit=config.limit,
                fewshot=config.fewshot,
                chat=config.chat,
                batch_size=rows,
            )
            if config.chat and lm.tokenizer.chat_template is None:
                name = f"evaluation.tasks: {config.metrics_name}"
                raise UserError(name, "the model has no chat template", "set chat to false")
            return InRunHarness(config, every, load_tasks(settings), settings)


def _check_metric(config: Config, tasks: Sequence[InRunTask]) -> None:
    """Checks that the task that evaluation.metric names measures it."""
    metric, name = config.evaluation.metric, config.evaluation.task_of_metric
    for task in tasks:
        if metric is None or task.config.metrics_name != name:
            continue
        if metric.rpartition(".")[2] not in task.metrics:
            known = ", ".join(f"{name}.{known}" for known in sorted(task.metrics))
            reason, fix = "is not measured here", f"choose one of {known}"
            raise UserError(f"evaluation.metric {metric}", reason, fix)


@dataclass(frozen=True)
class Measured:
    """The metrics of several tasks."""

    tasks: tuple[TaskScores, ...]

    @cached_property
    def record(self) -> dict[str, float | None]:
        """Values by name, as logged."""
        return {name: value for task in self.tasks for name, value in task.record().items()}

    def cost(self, metric: str) -> float | None:
        """The quantity to minimize: the metric, negated unless smaller is better; None if its task
        was not measured, or its value is not a number.

        Raises:
          UserError: its task was measured, but not this metric.
        """
        scores = {score.name: score for task in self.tasks for score in task.scores}
        if metric in scores:
            value = scores[metric].value
            return value if value is None or scores[metric].larger_is_better is False else -value
        task = metric.partition(".")[0]
        if known := [name for name in scores if name.startswith(f"{task}.")]:
            reason, fix = "is not measured here", f"choose one of {', '.join(known)}"
            raise UserError(f"evaluation.metric {metric}", reason, fix)
        return None


def measure_tasks(tasks: Sequence[InRunTask], lm: LanguageModel) -> Measured:
    """Measures tasks on a model, whose parameters stay as they are on its mesh."""
    return Measured(tuple(task.measure(lm) for task in tasks))
