"""Optimizers: what they are (config), the learning rate's course, and their update."""

from typing import TYPE_CHECKING, Any

from llmjax.optimizers.config import (
    AdafactorConfig,
    AdamWConfig,
    LionConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    optimizer_problems,
)

if TYPE_CHECKING:
    from llmjax.optimizers.optimizer import Optimizer, make_optimizer
    from llmjax.optimizers.schedules import learning_rate

__all__ = [
    "AdafactorConfig",
    "AdamWConfig",
    "LionConfig",
    "MuonConfig",
    "Optimizer",
    "OptimizerConfig",
    "ScheduleConfig",
    "SgdConfig",
    "learning_rate",
    "make_optimizer",
    "optimizer_problems",
]


def __getattr__(name: str) -> Any:
    """The configs are cheap to import; the rest comes, with JAX, when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmjax.optimizers import optimizer, schedules

    return getattr(schedules if name == "learning_rate" else optimizer, name)
