"""The stages of a run's data on its page."""

from collections.abc import Sequence

from llmjax.data.stages import Stage
from llmjax.reporting.format import count
from llmjax.run.config.schema import Config


def later_stages(config: Config) -> list[Stage]:
    """Returns the stages that begin after the first step; none for tasks."""
    return [stage for stage in config.data.all_stages() if stage.first_step]


def stage_marks(config: Config) -> list[float]:
    """Returns the steps at which a new stage begins."""
    return [float(stage.first_step) for stage in later_stages(config)]


def stages_note(config: Config) -> list[str]:
    """Says what the vertical lines in the learning curves are."""
    if not config.data.stages:
        return []
    texts = [describe_stage(stage) for stage in config.data.all_stages()]
    lines = "Vertical lines: a stage of the data begins. " if later_stages(config) else ""
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
