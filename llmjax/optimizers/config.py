"""Optimizers and schedules as data: a frozen dataclass for each, told apart by its type."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Literal

Schedule = Literal["constant", "cosine", "linear", "wsd"]


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves: a linear rise, then this shape to the run's last step."""

    shape: Schedule = "cosine"
    """constant; cosine (arXiv:1608.03983) or linear decay; wsd: flat, then a linear decay at the
    end (warmup-stable-decay, arXiv:2404.06395)."""
    warmup_steps: int = 100
    """Steps of the linear rise from near zero to the peak."""
    final_fraction: float = 0.1
    """Learning rate at the last step, as a share of the peak."""
    decay_fraction: float = 0.2
    """wsd only: share of all steps that the decay at the end takes."""


@dataclass(frozen=True)
class _Common:
    """Fields that every optimizer has."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Its course over the run."""
    weight_decay: float = 0.1
    """Decoupled decay (arXiv:1711.05101): a step takes learning rate x this off each matrix; never
    off norms and biases."""
    decay_embeddings: bool = False
    """Whether embedding and position tables decay too."""
    clip_norm: float | None = 1.0
    """Gradients longer than this (global 2-norm) are scaled down to it; None never does."""
    accumulate: int = 1
    """Parts of a batch whose gradients are computed one after the other and summed before the
    update: less memory, the same update."""


@dataclass(frozen=True)
class AdamWConfig(_Common):
    """AdamW (arXiv:1711.05101)."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""
    beta2: float = 0.95
    """Decay of the mean of squared gradients."""
    epsilon: float = 1e-8
    """Added to the root of the latter."""
    kind: Literal["adamw"] = "adamw"


@dataclass(frozen=True)
class AdafactorConfig(_Common):
    """Adafactor (arXiv:1804.04235): second moments kept as a row and a column for each matrix.

    Steps are not scaled by the parameter's size: the learning rate means what it does for AdamW.
    """

    beta1: float | None = None
    """Decay of the mean of updates; None keeps no mean, which saves its memory."""
    decay_rate: float = 0.8
    """The mean of squared gradients decays by 1 - step^-this."""
    clip_rms: float = 1.0
    """Updates of a matrix with a larger root mean square are scaled down to it."""
    min_factored_size: int = 128
    """Matrices with a smaller side keep full second moments."""
    kind: Literal["adafactor"] = "adafactor"


@dataclass(frozen=True)
class LionConfig(_Common):
    """Lion (arXiv:2302.06675): the sign of a mean of gradients; wants 3 to 10 times less learning
    rate, and as much more decay, than AdamW."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 1.0
    """Decoupled decay, as for AdamW."""
    beta1: float = 0.9
    """Weight of the mean in the update."""
    beta2: float = 0.99
    """Decay of the mean."""
    kind: Literal["lion"] = "lion"


@dataclass(frozen=True)
class MuonConfig(_Common):
    """Muon (Jordan et al. 2024): momentum, orthogonalised matrix by matrix; AdamW for the rest.

    Updates are scaled to AdamW's root mean square (arXiv:2502.16982), so one learning rate and one
    decay serve both.
    """

    momentum: float = 0.95
    """Decay of the (Nesterov) momentum of matrices."""
    newton_schulz_steps: int = 5
    """Iterations of the orthogonalisation."""
    update_rms: float = 0.2
    """Root mean square of a matrix's update, in learning rates."""
    beta1: float = 0.9
    """AdamW's, for embeddings, norms and biases."""
    beta2: float = 0.95
    """AdamW's, for embeddings, norms and biases."""
    epsilon: float = 1e-8
    """AdamW's, for embeddings, norms and biases."""
    kind: Literal["muon"] = "muon"


@dataclass(frozen=True)
class SgdConfig(_Common):
    """Stochastic gradient descent with momentum."""

    learning_rate: float = 0.1
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled decay, as for AdamW."""
    momentum: float = 0.9
    """Decay of the sum of gradients; 0 keeps none."""
    nesterov: bool = False
    """Whether the update looks one step ahead."""
    kind: Literal["sgd"] = "sgd"


OptimizerConfig = AdamWConfig | AdafactorConfig | LionConfig | MuonConfig | SgdConfig

_SHARES = ("beta1", "beta2", "momentum")  # [0, 1)
_COUNTS = ("accumulate", "newton_schulz_steps")
_POSITIVE = ("epsilon", "decay_rate", "clip_rms", "clip_norm", "update_rms", "learning_rate")


def optimizer_problems(config: OptimizerConfig, steps: int) -> list[str]:
    """Everything wrong with the values of `config`, a line each, for a run of `steps` steps."""
    return [*_number_problems(config), *_schedule_problems(config.schedule, steps)]


def _number_problems(config: OptimizerConfig) -> Iterator[str]:
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        path = f"optimizer.{item.name}: {value}"
        if not math.isfinite(value):
            yield f"{path} is not a finite number"
        elif item.name in _SHARES and not 0 <= value < 1:
            yield f"{path} must be at least 0 and below 1"
        elif item.name in _POSITIVE and value <= 0:
            yield f"{path} must be positive"
        elif value < (1 if item.name in _COUNTS else 0):
            yield f"{path} is too small"


def _schedule_problems(schedule: ScheduleConfig, steps: int) -> Iterator[str]:
    path = "optimizer.schedule"
    if not 0 <= schedule.warmup_steps < steps:
        given = schedule.warmup_steps
        yield f"{path}.warmup_steps: {given} must lie in 0 to {steps - 1}, one less than steps"
    for name in ("final_fraction", "decay_fraction"):
        value = getattr(schedule, name)
        if not 0 <= value <= 1:
            yield f"{path}.{name}: {value} must lie in 0 to 1"
    if schedule.shape == "wsd" and 0 <= schedule.decay_fraction <= 1:
        decay = round(schedule.decay_fraction * steps)
        if decay < 1:
            yield f"{path}.decay_fraction: {schedule.decay_fraction} of {steps} steps is no step"
        elif schedule.warmup_steps + decay > steps:
            yield f"{path}: warmup and decay take more than all {steps} steps"
