"""Encoded examples, common to all tasks, and checks before training."""

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from llmjax.data.tables.table import Row
from llmjax.errors import UserError

if TYPE_CHECKING:
    from llmjax.tasks.task import Task

log = logging.getLogger(__name__)
NO_TARGET = np.zeros(0, np.float32)
"""The target of examples that have targets per token only."""


class Segment(NamedTuple):
    """A tokenized text; in a packed row it attends only to itself.

    Attributes:
      tokens: int [n], input of the model (of an encoder-decoder: of the decoder).
      types: int [n], segment types; None: all 0.
      targets: int [n], the target at each token; None if only the example has a target.
      weights: float [n], of the targets; None: all 1.
      source: int [m], input of an encoder-decoder's encoder; None for other models.
    """

    tokens: Sequence[int]
    types: Sequence[int] | None = None
    targets: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    source: Sequence[int] | None = None

    @property
    def has_target(self) -> bool:
        """Whether any of its targets has weight."""
        return self.targets is None or self.weights is None or any(self.weights)


class Example(NamedTuple):
    """One training or prediction example.

    Attributes:
      segments: one, or two where texts are compared; as many in all examples of a task.
      target: float32 [k]: a class index, k numbers, an answer's first and last token; k is the same
        for all examples of a task, 0 if there are targets per token only.
      weight: of the target.
      row: index of its table row; several examples may come from one row.
      details: whatever the task needs to turn outputs into a prediction.
    """

    segments: tuple[Segment, ...]
    target: np.ndarray
    weight: float
    row: int
    details: object = None

    @property
    def length(self) -> int:
        """Its number of tokens."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def source_length(self) -> int:
        """Its number of encoder tokens."""
        return sum(len(segment.source or ()) for segment in self.segments)

    @property
    def has_target(self) -> bool:
        """Whether each of its segments has a target."""
        return all(segment.has_target for segment in self.segments)


def encode(task: "Task", rows: Sequence[Row], purpose: str) -> list[Example]:
    """Encode rows as examples.

    Args:
      task: the task.
      rows: of its tables.
      purpose: for the message, such as "train on".

    Raises:
      UserError: a row cannot be used, there are no examples, or the special tokens alone exceed a
        row.
    """
    examples, length = task.examples(rows), task.context.length
    if not examples:
        raise UserError(f"task {task.name}", f"no row yields an example to {purpose}", "check them")
    longest = max(max(example.length, example.source_length) for example in examples)
    if longest > length:
        reason = f"an example needs at least {longest} tokens, more than a row of {length}"
        raise UserError(f"task {task.name}", reason, f"set data.length to {longest} or more")
    return examples


def trainable(task: "Task", rows: Sequence[Row], examples: Sequence[Example]) -> list[Example]:
    """Keep the examples that contribute to the loss; warn about the rest.

    Args:
      task: the task.
      rows: the rows they come from.
      examples: of the rows. An example with targets per token is dropped if no target has weight,
        such as where the row is full before the answer begins.

    Raises:
      UserError: none is left.
    """
    kept = [example for example in examples if example.weight and example.has_target]
    empty = [example for example in examples if not example.has_target]
    if empty:
        length, first = task.context.length, rows[empty[0].row].place
        problem = f"have no target within {length} tokens (the first: {first})"
        if not kept:
            reason = f"{len(empty)} of {len(examples)} examples {problem}; none can be trained on"
            raise UserError(f"task {task.name}", reason, "raise data.length")
        log.warning("%d of %d examples %s: left out", len(empty), len(examples), problem)
    if not kept:
        reason = f"all {len(examples)} examples have weight 0"
        raise UserError(f"task {task.name}", reason, "check its table")
    return kept


def fingerprint(examples: Sequence[Sequence[Example]]) -> str:
    """Hash the encoded examples of all tasks."""
    digest = hashlib.blake2b(digest_size=16)
    for task_examples in examples:
        digest.update(len(task_examples).to_bytes(8, "little"))
        for example in task_examples:
            for segment in example.segments:
                for part in segment:
                    digest.update(b"|" if part is None else np.asarray(part, np.float64).tobytes())
            digest.update(np.asarray(example.target, np.float32).tobytes())
            digest.update(np.float64(example.weight).tobytes())
    return digest.hexdigest()
