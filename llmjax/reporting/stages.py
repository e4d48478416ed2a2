"""The stages of a run's data on its page."""

from collections.abc import Sequence
from dataclasses import replace

from llmjax.data.stages import Stage
from llmjax.reporting.format import count
from llmjax.run.config.schema import Config


def trained_stages(config: Config, roll_backs: Sequence[tuple[int, int]]) -> list[Stage]:
    """Returns the stages of a run, each with the step that it began at: earlier than configured
    if batches before it were left out.

    Args:
      config: of the run.
      roll_backs: (step, batches left out there), in order.
    """
    return [
        replace(stage, first_step=_step_of_batch(stage.first_step, roll_backs))
        for stage in config.data.all_stages()
    ]


def _step_of_batch(batch: int, roll_backs: Sequence[tuple[int, int]]) -> int:
    """Returns the steps taken before a batch, given by its index in the order of the data, or
    before it was left out."""
    left_out = begin = 0
    for step, batches in roll_backs:
        if batch - left_out <= step:
            break
        left_out, begin = left_out + batches, step
    return max(begin, batch - left_out)


def stage_marks(stages: Sequence[Stage]) -> list[float]:
    """Returns the steps at which a new stage begins."""
    return [float(stage.first_step) for stage in stages if stage.first_step]


def stages_note(stages: Sequence[Stage]) -> list[str]:
    """Says what the vertical lines in the learning curves are; nothing without stages."""
    if [stage.name for stage in stages] == ["data"]:
        return []
    texts = [describe_stage(stage) for stage in stages]
    lines = "Vertical lines: a stage of the data begins. " if stage_marks(stages) else ""
    return [f"{lines}Stages: {'; '.join(texts)}."]


def describe_stage(stage: Stage) -> str:
    """Returns a stage in words: its first step, its batches and its mixture."""
    total = sum(stage.weights)
    mixture = ", ".join(
        f"source {source}: {weight / total:.0%}"
        for source, weight in zip(stage.sources, stage.weights, strict=True)
    )
    return f"from step {count(stage.first_step)}, {stage.rows_text} ({mixture})"


def mean_flops_per_token(
    stages: Sequence[Stage], flops_by_stage: Sequence[float], step: int
) -> float | None:
    """Returns the mean FLOPs per token of the first `step` steps; None if there are none.

    Args:
      stages: of the run, in order.
      flops_by_stage: FLOPs per token of each.
      step: steps taken.
    """
    ends = [*(stage.first_step for stage in stages[1:]), step]
    tokens = [
        max(0, min(end, step) - stage.first_step) * stage.batch_size * stage.length
        for stage, end in zip(stages, ends, strict=True)
    ]
    pairs = zip(tokens, flops_by_stage, strict=True)
    return sum(count * flops for count, flops in pairs) / sum(tokens) if sum(tokens) else None
