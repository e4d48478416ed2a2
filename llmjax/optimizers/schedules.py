"""The learning rate as a function of the step."""

import optax

from llmjax.optimizers.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step (from 0, int or int32 []) -> learning rate (float32 []), for a run of `steps` steps.

    Step i of a warmup of w steps has (i + 1) / (w + 1) of the peak; step `steps` would have
    `final_fraction` of it.
    """
    schedule, peak = config.schedule, config.learning_rate
    warmup, final = schedule.warmup_steps, schedule.final_fraction * config.learning_rate
    rest = max(steps - warmup, 1)
    shapes: dict[str, tuple[optax.Schedule, ...]] = {
        "constant": (optax.constant_schedule(peak),),
        "cosine": (optax.cosine_decay_schedule(peak, rest, alpha=schedule.final_fraction),),
        "linear": (optax.linear_schedule(peak, final, rest),),
    }
    boundaries = [warmup]
    if schedule.shape == "wsd":
        decay = max(round(schedule.decay_fraction * steps), 1)
        boundaries.append(max(steps - decay, warmup))
        shapes["wsd"] = (optax.constant_schedule(peak), optax.linear_schedule(peak, final, decay))
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules((rise, *shapes[schedule.shape]), boundaries)
