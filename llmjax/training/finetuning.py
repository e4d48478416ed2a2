"""Fine-tuning: examples of one task or several, each with its head; what is kept of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from llmjax.data.loader import Feed
from llmjax.data.tables.table import Row
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.data.tokenizers.folder import keep_chat_template
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError
from llmjax.losses.loss import Loss
from llmjax.model.model import Model
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from llmjax.state import Tree
from llmjax.step import Batch, LossFunction
from llmjax.storage.writing import write_atomically
from llmjax.tasks.config import ChatTask, SequenceTask, TaskConfig, name_of
from llmjax.tasks.conversations import PLAIN
from llmjax.tasks.example import Example
from llmjax.tasks.feed import TaskFeed
from llmjax.tasks.figures import check_metric
from llmjax.tasks.findings import HELD_OUT, findings
from llmjax.tasks.opening import open_task, read_facts, require_answers, to_json
from llmjax.tasks.packing import Shape
from llmjax.tasks.preference import Preference
from llmjax.tasks.prepared import answer, encode, fingerprint, notes, opened, shape, teaching
from llmjax.tasks.task import Facts, Setting, Task
from llmjax.training.workload import EvalResult


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
class Finetuning:
    """Tasks that take turns."""

    config: Config
    model: Model
    parts: tuple[Part, ...]

    is_finite = True

    @property
    def has_lm_head(self) -> bool:
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

    def feed(self) -> Feed:
        return self._feed

    def evaluates_part(self, metric: str | None) -> bool:
        limits = [_limit(part.task.config) for part in self.parts]
        return metric not in (None, "loss") and any(limit is not None for limit in limits)

    def evaluate(self, params: Tree, mesh: Mesh, whole: bool) -> EvalResult | None:
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
        return EvalResult(sum(losses) / len(losses), figures, larger, details)

    def data_facts(self) -> dict[str, Any]:
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

    def before_first_step(self, params: Tree, mesh: Mesh) -> "Finetuning":
        """With the references of pairs of answers: their likelihoods by the untrained model."""
        parts = []
        for part in self.parts:
            if isinstance(part.task, Preference):
                metadata = part.task.refer(
                    self.model,
                    params,
                    [*part.learnt, *part.heldout],
                    batch_size=self.config.evaluation.batch_size,
                    mesh=mesh,
                )
                part = _with_references(part, metadata)
            parts.append(part)
        unchanged = all(new is old for new, old in zip(parts, self.parts, strict=True))
        return self if unchanged else replace(self, parts=tuple(parts))

    def write_metadata(self, run: Run) -> None:
        """Writes what the tasks found in their examples, references included, to the run."""
        metadata = to_json({part.name: part.task.facts for part in self.parts})
        try:
            write_atomically(run.tasks, metadata)
        except OSError as error:
            raise UserError(run.tasks, f"cannot be written: {error.strerror}") from error

    def _loss(self, task: Task) -> LossFunction:
        has_dropout = self.model.compute.dropout > 0

        def loss(params: Tree, batch: Batch, key: jax.Array | None) -> Loss:
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


def with_stored_references(parts: Sequence[Part], run: Run) -> tuple[Part, ...]:
    """The parts with the references that the run kept, where it did."""
    if not run.tasks.is_file() or not any(isinstance(one.task, Preference) for one in parts):
        return tuple(parts)
    facts = read_facts(run.tasks, [part.task.config for part in parts])
    return tuple(map(_with_references, parts, facts))


def _with_references(part: Part, facts: Facts) -> Part:
    task = part.task
    if not isinstance(task, Preference):
        return part
    kept = replace(task.facts, references=facts.references)
    again = open_task(task.config, task.setting, kept)
    assert isinstance(again, Preference)
    heldout, learnt = again.referred(part.heldout), again.referred(part.learnt)
    return replace(part, task=again, heldout=heldout, learnt=learnt)


def with_template(tokenizer: Tokenizer, config: Config, run: Run) -> Tokenizer:
    """The run's tokenizer; with a template, kept beside it, where conversations are learnt.

    Raises:
      UserError: the run's folder cannot be written.
    """
    chats = any(isinstance(task, ChatTask) for task in config.tasks)
    if not chats or tokenizer.chat_template is not None:
        return tokenizer
    keep_chat_template(run.tokenizer, PLAIN)
    return load_tokenizer(run.tokenizer)
