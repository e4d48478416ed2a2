"""Examples: what one table row becomes, whatever the task; checks before they are trained on."""

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
"""The target of an example of which only tokens have targets."""


class Segment(NamedTuple):
    """A text as the model reads it; in a packed row it attends to itself alone.

    Attributes:
      tokens: int [n], what the model (of an encoder-decoder: the decoder) reads.
      types: int [n], segment types; None: all 0.
      targets: int [n], what is to be predicted at each token; None where only the whole has a
        target.
      weights: float [n], of the targets; None: as targets.
      source: int [m], what the encoder of an encoder-decoder reads; None for other models.
    """

    tokens: Sequence[int]
    types: Sequence[int] | None = None
    targets: Sequence[int] | None = None
    weights: Sequence[float] | None = None
    source: Sequence[int] | None = None

    @property
    def has_target(self) -> bool:
        """Whether anything can be learned from it."""
        return self.targets is None or self.weights is None or any(self.weights)


class Example(NamedTuple):
    """What is trained on, or predicted for, as one.

    Attributes:
      segments: one of them; two where texts are compared (always equally many in a task).
      target: float32 [k], of the whole: a class's number, k numbers, an answer's first and last
        token; k is the same for all examples of a task, 0 where only tokens have targets.
      weight: of the target.
      row: which row of the table it comes from; several may come from one row.
      details: what the task needs to make a prediction of its outputs.
    """

    segments: tuple[Segment, ...]
    target: np.ndarray
    weight: float
    row: int
    details: object = None

    @property
    def length(self) -> int:
        """Tokens that it takes of a row."""
        return sum(len(segment.tokens) for segment in self.segments)

    @property
    def source_length(self) -> int:
        """Tokens that it takes of an encoder's row."""
        return sum(len(segment.source or ()) for segment in self.segments)

    @property
    def has_target(self) -> bool:
        """Whether each of its segments has a target."""
        return all(segment.has_target for segment in self.segments)


def encode(task: "Task", rows: Sequence[Row], purpose: str) -> list[Example]:
    """The examples of rows.

    Args:
      task: of the examples.
      rows: of its tables.
      purpose: what they are for, such as "train on".

    Raises:
      UserError: a row cannot be used, or none of them gives an example; or the special tokens
        around its texts alone are longer than a row.
    """
    examples, length = task.examples(rows), task.context.length
    if not examples:
        raise UserError(f"task {task.name}", f"no row gives an example to {purpose}", "check them")
    longest = max(max(example.length, example.source_length) for example in examples)
    if longest > length:
        reason = f"an example has {longest} tokens at least, more than a row of {length}"
        raise UserError(f"task {task.name}", reason, f"set data.length to {longest} or more")
    return examples


def trainable(task: "Task", rows: Sequence[Row], examples: Sequence[Example]) -> list[Example]:
    """The examples that something can be learned from; warns of the others.

    Args:
      task: of the examples.
      rows: from which they come.
      examples: of the rows; an example whose tokens have targets teaches nothing where no target
        of a segment has weight, such as where a row is full before the answer begins.

    Raises:
      UserError: there are none.
    """
    kept = [example for example in examples if example.weight and example.has_target]
    empty = [example for example in examples if not example.has_target]
    if empty:
        length, first = task.context.length, rows[empty[0].row].place
        what = f"have no target within {length} tokens (the first: {first})"
        if not kept:
            reason = f"{len(empty)} of {len(examples)} examples {what}, so none can be trained on"
            raise UserError(f"task {task.name}", reason, "raise data.length")
        log.warning("%d of %d examples %s: left out", len(empty), len(examples), what)
    if not kept:
        reason = f"all {len(examples)} examples have weight 0"
        raise UserError(f"task {task.name}", reason, "check its table")
    return kept


def fingerprint(examples: Sequence[Sequence[Example]]) -> str:
    """A hash of all tasks' encoded examples."""
    digest = hashlib.blake2b(digest_size=16)
    for of_task in examples:
        digest.update(len(of_task).to_bytes(8, "little"))
        for example in of_task:
            for segment in example.segments:
                for part in segment:
                    digest.update(b"|" if part is None else np.asarray(part, np.float64).tobytes())
            digest.update(np.asarray(example.target, np.float32).tobytes())
            digest.update(np.float64(example.weight).tobytes())
    return digest.hexdigest()
