"""What is due after a step: evaluations, tasks, samples, checkpoints, and the end of the run."""

from dataclasses import replace

from llmjax.run.checkpoint.progress import TrainProgress
from llmjax.training.in_run_evaluation import InRunTask
from llmjax.training.session import Session


def is_due(step: int, every: int) -> bool:
    """Whether what happens every so many steps does after this one; 0: it never does."""
    return every > 0 and step % every == 0


def is_over(session: Session, progress: TrainProgress, step: int) -> bool:
    """Whether the run ends with a step: the last one, or one at which it no longer improves."""
    return step >= session.steps or progress.is_over(session.config.evaluation.patience)


def tasks_due(session: Session, progress: TrainProgress, step: int) -> list[InRunTask]:
    """The tasks that are measured after a step."""
    last = is_over(session, progress, step)
    return [task for task in session.evaluation_tasks if task.is_due(step, last)]


def with_dues(session: Session, progress: TrainProgress, step: int) -> TrainProgress:
    """The progress, which may still lack the step's metrics, with what is due after it marked."""
    config = session.config
    samples = config.samples.every
    return replace(
        progress,
        evaluation_due=step >= session.steps or is_due(step, config.evaluation.every),
        tasks_due=bool(tasks_due(session, progress, step)),
        samples_due=samples > 0 and (is_over(session, progress, step) or is_due(step, samples)),
    )


def still_due(session: Session, stored: TrainProgress) -> TrainProgress:
    """The stored progress, with only what an earlier stop skipped and the config still asks for
    marked as due."""
    due = with_dues(session, stored, stored.step)
    return replace(
        stored,
        evaluation_due=stored.evaluation_due and due.evaluation_due,
        tasks_due=stored.tasks_due and due.tasks_due,
        samples_due=stored.samples_due and due.samples_due,
    )


def has_dues(progress: TrainProgress) -> bool:
    """Whether anything but a checkpoint is due."""
    return progress.evaluation_due or progress.tasks_due or progress.samples_due


def is_best(session: Session, progress: TrainProgress, cost: float | None) -> bool:
    """Whether the step's cost is the best so far, in a run that keeps the best."""
    config = session.config
    keeps_best = config.evaluation.metric is not None and config.checkpoint.keep_best > 0
    return keeps_best and cost is not None and progress.worse == 0


def is_local_due(session: Session, step: int) -> bool:
    """Whether the state is saved to the local disks after a step."""
    config = session.config.checkpoint
    return config.local_dir is not None and is_due(step, config.local_every)
