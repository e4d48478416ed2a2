"""When and how held-out text is scored: a frozen value, cheap to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how held-out text is scored."""

    every: int = 500
    """Steps of training between evaluations. 0: only one, at the end."""
    context: int | None = None
    """Tokens of a window. None: as long as the rows that are trained on."""
    stride: int | None = None
    """Tokens from one window to the next; overlap gives tokens more context, at more cost.
    None: half of the context."""
    batch_size: int = 16
    """Rows scored at once, rounded up to what the mesh divides."""
    max_tokens: int | None = None
    """While training, score only the first held-out documents that have this many tokens."""
    metric: str | None = None
    """The figure to go by when the best checkpoint is kept, and then also read by default: as
    evaluations report it, such as accuracy, or with several tasks NAME.accuracy. None: the loss,
    and the newest checkpoint is read."""
    patience: int = 0
    """Evaluations in a row without a better figure after which the run ends. 0: never."""


def evaluation_problems(config: EvaluationConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each."""
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
    return [f"evaluation.{problem}" for problem, fine in checks.items() if not fine]
