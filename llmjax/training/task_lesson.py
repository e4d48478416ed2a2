"""Fine-tuning: examples of one task or several, each with its head."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from llmjax.data.loader import Feed
from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.model.model import Model
from llmjax.run.config.schema import Config
from llmjax.state import Tree
from llmjax.step import Batch, LossFunction
from llmjax.tasks.config import RegressionTask, SequenceTask, TaskConfig, name_of
from llmjax.tasks.example import Example
from llmjax.tasks.feed import TaskFeed
from llmjax.tasks.figures import check_metric
from llmjax.tasks.findings import HELD_OUT, findings
from llmjax.tasks.opening import require_answers
from llmjax.tasks.packing import Shape
from llmjax.tasks.prepared import answer, encode, fingerprint, notes, opened, shape, teaching
from llmjax.tasks.task import Setting, Task
from llmjax.training.lesson import Heldout


@dataclass(frozen=True, eq=False)
class Part:
    """A task with its examples.

    Attributes:
      task: what is done with them.
      rows: what it is measured on.
      heldout: these rows, encoded.
      learnt: what it is learnt from.
      shape: of the rows of tokens of that.
    """

    task: Task
    rows: list[Row]
    heldout: list[Example]
    learnt: list[Example]
    shape: Shape

    @property
    def name(self) -> str:
        return name_of(self.task.config)


@dataclass(frozen=True, eq=False)
class TaskLesson:
    """Tasks that take turns."""

    config: Config
    model: Model
    parts: tuple[Part, ...]

    stops = True
    priced = False

    @property
    def unembeds(self) -> bool:
        return any(part.shape.per_token and part.task.head is None for part in self.parts)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint([part.learnt for part in self.parts])

    @cached_property
    def steps_per_epoch(self) -> float:
        return self._feed.epoch_steps()

    @property
    def losses(self) -> tuple[LossFunction, ...]:
        return tuple(self._loss(part.task) for part in self.parts)

    @property
    def tells(self) -> bool:
        return not any(isinstance(part.task.config, RegressionTask) for part in self.parts)

    def feed(self) -> Feed:
        return self._feed

    def task(self, step: int) -> int:
        return self._feed.task(step)

    def samples(self, metric: str | None) -> bool:
        limits = [_limit(part.task.config) for part in self.parts]
        return metric not in (None, "loss") and any(limit is not None for limit in limits)

    def score(self, params: Tree, mesh: Mesh, whole: bool) -> Heldout | None:
        """Each task's figures; with several tasks under their names, the loss as their mean."""
        figures: dict[str, float | None] = {"bits_per_byte": None}
        larger: dict[str, bool] = {}
        details: dict[str, Any] = {}
        losses: list[float] = []
        for part in self.parts:
            if not part.rows:
                continue
            prefix = f"{part.name}." if len(self.parts) > 1 else ""
            told = answer(
                part.task,
                self.model,
                params,
                part.rows,
                part.heldout,
                batch_size=self.config.evaluation.batch_size,
                mesh=mesh,
                measured=None if whole else _limit(part.task.config),
            )
            losses.append(told.sums.loss)
            figures[f"{prefix}loss"] = told.sums.loss
            for figure in told.measures.metrics if told.measures else ():
                figures[prefix + figure.name] = figure.value
                larger[prefix + figure.name] = figure.larger_is_better
            figures[f"{prefix}examples"] = len(part.rows)
            all_rows = len(told.rows) == len(part.rows)
            which = HELD_OUT if all_rows else f"the first {len(told.rows):,} rows of {HELD_OUT}"
            details[part.name] = findings(part.task.config, told, which)
        if not losses:
            return None
        return Heldout(sum(losses) / len(losses), figures, larger, details)

    def facts(self) -> dict[str, Any]:
        return {
            part.name: {
                "kind": part.task.config.kind,
                "train_examples": len(part.learnt),
                "train_tokens": sum(example.length for example in part.learnt),
                "heldout_rows": len(part.rows),
                "labels": dict(zip(part.task.facts.labels, part.task.facts.counts, strict=True)),
            }
            for part in self.parts
        }

    def headline(self) -> str:
        lines = [
            note
            for part in self.parts
            for note in notes(part.task.config, part.task.facts, len(part.learnt), len(part.rows))
        ]
        return "\n".join(lines)

    def _loss(self, task: Task) -> LossFunction:
        has_dropout = self.model.compute.dropout > 0

        def loss(params: Any, batch: Batch, key: jax.Array | None) -> Loss:
            return task.loss(self.model, params, batch, key if has_dropout else None)

        return loss

    @cached_property
    def _feed(self) -> TaskFeed:
        return TaskFeed(
            [part.learnt for part in self.parts],
            [part.shape for part in self.parts],
            [part.task.config.weight for part in self.parts],
            self.config.data.batch_size,
            self.config.seed,
        )


def _limit(config: TaskConfig) -> int | None:
    """How many rows are answered in the midst of training; None: all."""
    return config.measure if isinstance(config, SequenceTask) else None


def prepare_tasks(
    config: Config, setting: Setting, rows: Sequence[tuple[list[Row], list[Row]]]
) -> tuple[Part, ...]:
    """The tasks with their examples.

    Args:
      config: of the run.
      setting: where the tasks are done.
      rows: of each, those to learn from and those to measure on.

    Raises:
      UserError: a row cannot be used, a task does not suit the model, or the figure to go by is not
        measured.
    """
    parts = []
    for one, (learnt, dev) in zip(config.tasks, rows, strict=True):
        task = opened(one, setting, learnt)
        examples = teaching(task, learnt, encode(task, learnt, "learn from"))
        require_answers(one, learnt, dev)
        heldout = encode(task, dev, "measure on") if dev else []
        if heldout:
            # All stay, for each belongs to a row; but none of them may count.
            teaching(task, dev, heldout)
        parts.append(Part(task, dev, heldout, examples, shape(task, examples)))
    _check_measured(config, parts)
    return tuple(parts)


def _check_measured(config: Config, parts: Sequence[Part]) -> None:
    """Checks that the figure to go by is measured, of some task that holds something out."""
    metric, patience = config.evaluation.metric, config.evaluation.patience
    measured = [(part.task.config, part.task.facts) for part in parts if part.rows]
    if measured:
        check_metric(metric, measured, several=len(parts) > 1)
    elif metric is not None or patience:
        setting = f"metric {metric}" if metric is not None else f"patience {patience}"
        raise UserError(
            f"evaluation.{setting}",
            "no task holds anything out to measure",
            "name a task's dev tables, raise its dev_fraction, or leave metric and patience out",
        )
