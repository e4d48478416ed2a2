"""The config of checkpoints; cheap to import."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckpointConfig:
    """When to save the state, and which checkpoints to keep. The last step is always saved."""

    every: int = 1000
    """Steps between saves. 0: by time alone."""
    every_minutes: float | None = 30.0
    """Also save when this many minutes have passed since the last save; None: by steps alone."""
    keep_last: int = 3
    """How many of the newest checkpoints to keep."""
    keep_best: int = 1
    """How many of the best evaluated checkpoints to keep: those of lowest validation loss, or of
    the best evaluation.metric. If that is set, each new best step is also saved."""
    local_dir: str | None = None
    """Folder on each machine's own disk, for checkpoints between those of the run folder: each
    process saves its own part there, and a restart on the same mesh reads it from there. None: no
    such checkpoints."""
    local_every: int = 100
    """Steps between saves to local_dir."""


def checkpoint_problems(config: CheckpointConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each."""
    minutes = config.every_minutes
    checks = {
        f"every: {config.every} is negative": config.every >= 0,
        f"every_minutes: {minutes} is not a positive number": minutes is None or 0 < minutes < 1e9,
        f"keep_last: {config.keep_last} is not positive": config.keep_last > 0,
        f"keep_best: {config.keep_best} is negative": config.keep_best >= 0,
        f"local_every: {config.local_every} is not positive": config.local_every > 0,
        f"local_dir: {config.local_dir!r} is not a folder name": config.local_dir is None
        or (config.local_dir != "" and "\0" not in config.local_dir),
    }
    return [f"checkpoint.{problem}" for problem, holds in checks.items() if not holds]
