"""When the state is saved and which states are kept: a frozen value, cheap to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved, and which states are kept. A run also saves its last step."""

    every: int = 1000
    """Steps between saves. 0: by time alone."""
    every_minutes: float | None = 30.0
    """Also save when this long has passed since the last save; None: by steps alone."""
    keep_last: int = 3
    """The newest ones are kept: this many."""
    keep_best: int = 1
    """Of those saved right after an evaluation, the ones of lowest validation loss are kept, or of
    the best evaluation.metric; where that is named, each one better than all before is saved."""


def checkpoint_problems(config: CheckpointConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each."""
    minutes = config.every_minutes
    checks = {
        f"every: {config.every} is negative": config.every >= 0,
        f"every_minutes: {minutes} is not a positive number": minutes is None or 0 < minutes < 1e9,
        f"keep_last: {config.keep_last} is not positive": config.keep_last > 0,
        f"keep_best: {config.keep_best} is negative": config.keep_best >= 0,
    }
    return [f"checkpoint.{problem}" for problem, fine in checks.items() if not fine]
