"""The config of evaluation; cheap to import."""

from dataclasses import dataclass

from llmjax.scoring.evaluation_tasks import EvaluationTask, evaluation_task_problems


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation on the validation set."""

    every: int = 500
    """Training steps between evaluations. 0: only at the end."""
    context: int | None = None
    """Tokens per window. None: the length of training rows."""
    stride: int | None = None
    """Stride of the sliding window; a smaller one gives tokens more context, at more cost.
    None: half of the context."""
    batch_size: int = 16
    """Rows per batch, rounded up to a multiple that the mesh divides."""
    max_tokens: int | None = None
    """During training, score only the first validation documents, up to this many tokens."""
    metric: str | None = None
    """Metric that selects the best checkpoint, which is then kept and loaded by default: as
    evaluations report it, such as accuracy, or with several tasks NAME.accuracy. None: the loss,
    and the newest checkpoint is loaded."""
    patience: int = 0
    """Stop after this many evaluations in a row without improvement. 0: never."""
    tasks: tuple[EvaluationTask, ...] = ()
    """Tasks measured on the model while it trains: files of multiple-choice questions (choose), or
    tasks of the lm-evaluation-harness (harness). Their metrics, such as NAME.accuracy, can be the
    `metric` above."""

    @property
    def task_of_metric(self) -> str | None:
        """The name of the task above that measures `metric`; None if none does."""
        name, dot, _ = (self.metric or "").partition(".")
        return name if dot and name in [task.metrics_name for task in self.tasks] else None


def evaluation_problems(config: EvaluationConfig) -> list[str]:
    """Return all problems of the values, a line each."""
    checks = {
        f"every: {config.every} is negative": config.every >= 0,
        f"context: {config.context} is not positive": config.context is None or config.context > 0,
        f"stride: {config.stride} is not positive": config.stride is None or config.stride > 0,
        f"stride: {config.stride} is more than the context and would skip tokens": (
            None in (config.stride, config.context) or config.stride <= config.context  # type: ignore[operator]
        ),
        f"batch_size: {config.batch_size} is not positive": config.batch_size > 0,
        f"patience: {config.patience} is negative": config.patience >= 0,
        f"patience: {config.patience} has no meaning while evaluation.every is 0": (
            not config.patience or config.every > 0
        ),
        f"max_tokens: {config.max_tokens} is not positive": (
            config.max_tokens is None or config.max_tokens > 0
        ),
    }
    problems = [problem for problem, fine in checks.items() if not fine]
    problems += evaluation_task_problems(config.tasks)
    return [f"evaluation.{problem}" for problem in problems]
