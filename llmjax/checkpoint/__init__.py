"""Checkpoints: state and data position, saved together, verified when read."""

import importlib
from typing import TYPE_CHECKING, Any

from llmjax.checkpoint.config import CheckpointConfig, checkpoint_problems
from llmjax.checkpoint.position import Position, read_position

if TYPE_CHECKING:
    from llmjax.checkpoint.checkpoints import Checkpoints
    from llmjax.checkpoint.params import save_params
    from llmjax.checkpoint.reading import read_params, restore_params, whole_step

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "Position",
    "checkpoint_problems",
    "read_params",
    "read_position",
    "restore_params",
    "save_params",
    "whole_step",
]
HOMES = {
    "Checkpoints": "checkpoints",
    "read_params": "reading",
    "restore_params": "reading",
    "save_params": "params",
    "whole_step": "reading",
}


def __getattr__(name: str) -> Any:
    """The config is cheap to import; the rest comes, with JAX and Orbax, when it is asked for."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
