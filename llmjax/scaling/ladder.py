"""A ladder: runs of several sizes and numbers of tokens, whose losses make a scaling law."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmjax.errors import UserError
from llmjax.run.config.checks import validate
from llmjax.run.config.schema import Config
from llmjax.scaling.dial import Size, at_depth, size_of


@dataclass(frozen=True)
class LadderConfig:
    """Which runs a ladder has."""

    depths: tuple[int, ...] = (2, 3, 4, 6)
    """Layers of its models; all else follows from them as with `llmjax train --depth`."""
    ratios: tuple[float, ...] = (5.0, 10.0, 20.0)
    """Training tokens per parameter."""
    seeds: tuple[int, ...] = (0,)
    """Each run is repeated with each seed."""
    held_out_depth: int = 0
    """Layers of a larger run, whose loss is predicted before it is trained. 0: none."""
    held_out_factor: float = 4.0
    """FLOPs of that run, relative to the ladder's largest."""

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the values, a line each."""
        for name, least in (("depths", 1), ("ratios", 1e-6), ("seeds", 0)):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) < least:
                yield f"{name}: {values} must be different numbers of at least {least}"
        if self.held_out_depth < 0:
            yield f"held_out_depth: {self.held_out_depth} must be at least 0"
        if not 1 < self.held_out_factor < 1e6:
            yield f"held_out_factor: {self.held_out_factor} must be above 1"


@dataclass(frozen=True)
class Member:
    """A run of a ladder."""

    name: str
    config: Config
    """Complete; its run folder lies in the ladder's."""
    size: Size
    tokens: int
    begins_from: str | None = None
    """The member whose checkpoint `branch_step` it continues; None: it starts at step 0."""
    branch_step: int = 0
    """Steps that it shares with that member."""
    is_held_out: bool = False
    """Whether its loss is predicted, and not part of the fit."""

    @property
    def flops(self) -> float:
        """Of its training from the start, whether shared or not."""
        return self.size.flops_per_token * self.tokens

    @property
    def own_flops(self) -> float:
        """Of the steps that it does not share."""
        return self.flops * (1 - self.branch_step / self.config.steps)


def members(config: Config, ladder: LadderConfig, folder: Path) -> list[Member]:
    """The runs of a ladder, those that others continue first, smaller ones before larger ones.

    With schedule wsd, the runs of one size and seed share the steps before their decays, which
    compute the same: the learning rate is constant there, and the batches depend on the step alone.

    Args:
      config: sets the constants of `at_depth`, and all that does not depend on the size.
      ladder: which runs.
      folder: of the ladder.

    Raises:
      UserError: a config is not valid; its message names the run.
    """
    found = [
        member
        for seed in ladder.seeds
        for depth in ladder.depths
        for member in _row(config, ladder, depth, seed, folder)
    ]
    if ladder.held_out_depth:
        budget = ladder.held_out_factor * max(member.flops for member in found)
        found += [_held_out(config, ladder.held_out_depth, budget, s, folder) for s in ladder.seeds]
    for member in found:
        try:
            validate(member.config)
        except UserError as error:
            raise UserError(f"run {member.name}", str(error)) from error
    return sorted(found, key=lambda member: (member.is_held_out, member.flops, member.name))


def _row(
    config: Config, ladder: LadderConfig, depth: int, seed: int, folder: Path
) -> Iterator[Member]:
    """Runs of one size and seed, from few tokens to many."""
    base = at_depth(config, depth)
    size = size_of(base)
    before: Member | None = None
    for ratio in sorted(ladder.ratios):
        name = f"d{depth}-r{ratio:g}-s{seed}"
        member = _member(base, size, ratio * size.parameters, seed, folder / "runs" / name)
        if before is not None and _can_branch(before.config, member.config):
            start = decay_start(before.config)
            member = replace(member, begins_from=before.name, branch_step=start)
        yield member
        before = member


def _held_out(config: Config, depth: int, budget: float, seed: int, folder: Path) -> Member:
    base = at_depth(config, depth)
    size = size_of(base)
    path = folder / "runs" / f"held-out-d{depth}-s{seed}"
    return replace(_member(base, size, budget / size.flops_per_token, seed, path), is_held_out=True)


def _member(base: Config, size: Size, tokens: float, seed: int, path: Path) -> Member:
    """A run of a size, of about so many tokens, with the batch, rate and decay of the size."""
    per_step = base.data.batch_size * base.data.length
    steps = max(2, math.ceil(tokens / per_step))
    schedule = base.optimizer.schedule
    longest = max(0, (decay_steps(base, steps) if schedule.shape == "wsd" else 1))
    config = replace(
        base,
        run_dir=str(path),
        seed=seed,
        steps=steps,
        optimizer=replace(
            base.optimizer,
            schedule=replace(schedule, warmup_steps=min(schedule.warmup_steps, steps - longest)),
        ),
        evaluation=replace(base.evaluation, every=0),
        samples=replace(base.samples, every=0),
    )
    start = decay_start(config)
    checkpoint = replace(config.checkpoint, every=start, every_minutes=None, keep_last=2)
    return Member(path.name, replace(config, checkpoint=checkpoint), size, steps * per_step)


def decay_steps(config: Config, steps: int) -> int:
    """Steps of the final decay of schedule wsd, in a run of so many steps."""
    return max(round(config.optimizer.schedule.decay_fraction * steps), 1)


def decay_start(config: Config) -> int:
    """The step from which the learning rate depends on the run's length; at least 1."""
    if config.optimizer.schedule.shape != "wsd":
        return config.steps
    return max(1, config.steps - decay_steps(config, config.steps))


def _can_branch(before: Config, longer: Config) -> bool:
    """Whether a longer run begins with the steps of one before its decay."""
    one, other = before.optimizer.schedule, longer.optimizer.schedule
    same = one == other and one.shape == "wsd"
    start = decay_start(before)
    return same and one.warmup_steps <= start <= decay_start(longer)
