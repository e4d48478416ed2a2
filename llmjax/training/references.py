"""What is known of the examples before training, and kept with the run: what tasks found in them,
and what the model says of pairs of answers before it learns from them (see `tasks.preference`)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmjax.errors import UserError
from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.folder import Run
from llmjax.state import Tree
from llmjax.storage.writing import write_atomically
from llmjax.tasks.config import name_of
from llmjax.tasks.metadata import TaskMetadata, metadata_json, read_metadata
from llmjax.training.task_lesson import Part, TaskLesson

if TYPE_CHECKING:
    from llmjax.training.session import Session


def with_references(
    session: "Session", progress: TrainProgress, params: Tree
) -> "tuple[Session, TrainProgress]":
    """A session that is about to take its first step, with the references of its pairs. Other
    sessions come back as they are.

    Args:
      session: of any lesson.
      progress: where it stands.
      params: of the whole network.
    """
    lesson = session.lesson
    if progress.step or not isinstance(lesson, TaskLesson):
        return session, progress
    if not any(part.task.config.uses_initial_model for part in lesson.parts):
        return session, progress
    parts = tuple(_referred(session, part, params) for part in lesson.parts)
    begun = replace(session, lesson=replace(lesson, parts=parts))
    return begun, begun.progress(0)


def keep_facts(session: "Session") -> None:
    """Writes what the tasks found in their examples, references included, to the run. Only once the
    run is known to go on with these examples: what it tells is read by the facts that are there.

    Raises:
      UserError: the run's folder cannot be written.
    """
    lesson = session.lesson
    if session.leads and isinstance(lesson, TaskLesson):
        facts = metadata_json({part.name: part.task.metadata for part in lesson.parts})
        try:
            write_atomically(session.run.tasks, facts)
        except OSError as error:
            raise UserError(session.run.tasks, f"cannot be written: {error.strerror}") from error
    wait_for_all("facts")


def _referred(session: "Session", part: Part, params: Tree) -> Part:
    if not part.task.config.uses_initial_model:
        return part
    examples = [*part.learnt, *part.heldout]
    facts = part.task.reference(
        session.model,
        params,
        examples,
        batch_size=session.config.evaluation.batch_size,
        mesh=session.mesh,
    )
    return _known(part, facts)


def remembered(parts: Sequence[Part], run: Run) -> tuple[Part, ...]:
    """The parts with the references that the run kept, where it did."""
    if not run.tasks.is_file() or not any(part.task.config.uses_initial_model for part in parts):
        return tuple(parts)
    facts = read_metadata(run.tasks, [name_of(part.task.config) for part in parts])
    return tuple(map(_known, parts, facts))


def _known(part: Part, facts: TaskMetadata) -> Part:
    task = part.task
    if not task.config.uses_initial_model:
        return part
    metadata = replace(task.metadata, references=facts.references)
    again = task.config.open(task.context, metadata)
    heldout, learnt = again.with_references(part.heldout), again.with_references(part.learnt)
    return replace(part, task=again, heldout=heldout, learnt=learnt)
