"""The config of logging; cheap to import."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LogConfig:
    """What to report while training, and where; metrics.jsonl is always written."""

    every: int = 10
    """Steps between records of metrics."""
    display: Literal["auto", "bar", "lines", "none"] = "auto"
    """On stderr: a progress bar, plain lines, or nothing; auto: a bar on a terminal, else lines."""
    tensorboard: bool = False
    """Also write RUN/tensorboard; needs the extra `tensorboard`."""
    wandb: str | None = None
    """Also report to this Weights & Biases project; needs the extra `wandb`."""
    profile: int = 0
    """Steps to profile, from the sixth of this start on, into RUN/profile, for XProf or
    TensorBoard. 0: none."""
    watchdog: int = 600
    """Seconds after which a run that makes no progress is ended, with exit code 76 and a line that
    names the process; at least 20 times the usual time of a step. 0: never."""


def log_problems(config: LogConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each."""
    checks = {
        f"every: {config.every} is not positive": config.every > 0,
        f"profile: {config.profile} is negative": config.profile >= 0,
        f"watchdog: {config.watchdog} is negative": config.watchdog >= 0,
        "wandb: a project's name is not empty": config.wandb != "",
    }
    return [f"log.{problem}" for problem, holds in checks.items() if not holds]
