"""The base class of optimizer configs, the schedule's config, the registry.

An optimizer is one frozen dataclass derived from `OptimizerConfig`, whose `direction` returns the
Optax transformation. To add one, write a file with such a class and add a line here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import optax

from llmjax.optimizers.moments import MomentDtype
from llmjax.registry import Registry

Tree = dict[str, Any]


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate schedule: a linear warmup, then `shape` until the last step."""

    shape: Literal["constant", "cosine", "linear", "wsd"] = "cosine"
    """constant; cosine (arXiv:1608.03983) or linear decay; wsd: constant, then a final linear decay
    (warmup-stable-decay, arXiv:2404.06395)."""
    warmup_steps: int = 100
    """Steps of the linear warmup from near zero to the peak."""
    final_fraction: float = 0.1
    """Learning rate at the last step, as a fraction of the peak."""
    decay_fraction: float = 0.2
    """wsd only: fraction of all steps in the final decay."""

    def problems(self, steps: int) -> Iterator[str]:
        """Yields what is wrong with the values for a run of `steps` steps."""
        path = "optimizer.schedule"
        if not 0 <= self.warmup_steps < steps:
            prefix = f"{path}.warmup_steps: {self.warmup_steps}"
            yield f"{prefix} must lie in 0 to {steps - 1}, one less than steps"
        for name in ("final_fraction", "decay_fraction"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                yield f"{path}.{name}: {value} must lie in 0 to 1"
        if self.shape == "wsd" and 0 <= self.decay_fraction <= 1:
            decay = round(self.decay_fraction * steps)
            if decay < 1:
                yield f"{path}.decay_fraction: {self.decay_fraction} of {steps} steps is no step"
            elif self.warmup_steps + decay > steps:
                yield f"{path}: warmup and decay take more than all {steps} steps"


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings common to all optimizers."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate schedule."""
    weight_decay: float = 0.1
    """Decoupled weight decay (arXiv:1711.05101): each step subtracts learning rate x this x weight
    from matrices, never from norms and biases."""
    decay_embeddings: bool = False
    """Whether embedding and position tables decay too."""
    clip_norm: float | None = 1.0
    """Maximum global 2-norm of gradients, which are scaled down to it; None: no clipping."""
    accumulate: int = 1
    """Microbatches whose gradients are summed before the update: less memory, the same update."""
    moment_dtype: MomentDtype = "float32"
    """Of the optimizer state between steps. bfloat16 halves its memory, int8 takes a quarter;
    averages are computed in float32 and rounded stochastically."""

    FRACTIONS: ClassVar[tuple[str, ...]] = ()
    """Fields that must be at least 0 and below 1."""
    POSITIVE: ClassVar[tuple[str, ...]] = ()
    """Fields that must be above 0; other numbers must not be negative."""
    COUNTS: ClassVar[tuple[str, ...]] = ()
    """Fields that must be at least 1."""
    EIGHT_BIT: ClassVar[bool] = False
    """Whether the state may be in int8: averages of gradients, and those of squares named nu."""

    def direction(self, logical_axes: Tree) -> optax.GradientTransformation:
        """Transforms gradients into the update direction, before weight decay and learning rate.

        Args:
          logical_axes: tree of the parameters' logical axes.
        """
        raise NotImplementedError(type(self).__name__)

    def problems(self, steps: int) -> list[str]:
        """Returns what is wrong with the values, a line each, for a run of `steps` steps."""
        problems = [*self._number_problems(), *self.schedule.problems(steps)]
        if self.moment_dtype == "int8" and not self.EIGHT_BIT:
            names = ", ".join(name for name, each in OPTIMIZERS.items() if each.EIGHT_BIT)
            reason = f"{getattr(self, 'kind', type(self).__name__)} has no state in int8"
            problems.append(f"optimizer.moment_dtype: {reason}; take bfloat16, or one of {names}")
        return problems

    def _number_problems(self) -> Iterator[str]:
        positive = ("learning_rate", "clip_norm", *self.POSITIVE)
        counts = ("accumulate", *self.COUNTS)
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            path = f"optimizer.{item.name}: {value}"
            if not math.isfinite(value):
                yield f"{path} is not a finite number"
            elif item.name in self.FRACTIONS and not 0 <= value < 1:
                yield f"{path} must be at least 0 and below 1"
            elif item.name in positive and value <= 0:
                yield f"{path} must be positive"
            elif value < (1 if item.name in counts else 0):
                yield f"{path} is too small"


OPTIMIZERS: Registry[OptimizerConfig] = Registry(
    "optimizer",
    {
        "adamw": "llmjax.optimizers.standard:AdamWConfig",
        "adafactor": "llmjax.optimizers.standard:AdafactorConfig",
        "lion": "llmjax.optimizers.standard:LionConfig",
        "muon": "llmjax.optimizers.muon:MuonConfig",
        "sgd": "llmjax.optimizers.standard:SgdConfig",
    },
)
