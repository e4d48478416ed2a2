"""How text is continued: a frozen value, cheap to import."""

import math
from dataclasses import dataclass

from llmjax.limits import number_problems


@dataclass(frozen=True)
class DecodingConfig:
    """How text is continued. Filters apply in this order: repetition penalty, temperature, top-k,
    top-p, min-p."""

    max_new_tokens: int = 128
    """The most tokens to write; fewer where the text ends or the context is full."""
    temperature: float = 0.8
    """Divides the logits: below 1 tamer, above 1 wilder. 0: always the likeliest token (greedy)."""
    top_k: int | None = None
    """Choose among the k likeliest tokens."""
    top_p: float | None = None
    """Choose among the fewest likeliest tokens whose probabilities sum to this."""
    min_p: float | None = None
    """Choose among tokens at least this times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """Above 1: tokens of the prompt and of the text so far are less likely (arXiv:1909.05858)."""
    samples: int = 1
    """Completions of each prompt; of beam search, the best ones."""
    beams: int = 1
    """Above 1: beam search for the likeliest text, which draws nothing and needs no temperature."""
    length_penalty: float = 1.0
    """Beams are ranked by log-probability / tokens ** this."""
    stop: tuple[str, ...] = ()
    """Text ends before the first of these strings."""
    seed: int = 0
    """With its prompt and its number among that prompt's samples, decides a completion."""
    batch_size: int = 16
    """Completions written at once."""


def decoding_problems(config: DecodingConfig) -> list[str]:
    """Everything wrong with the values of `config`, a line each that begins with the field."""

    def above_zero(value: float | None) -> bool:
        return value is None or 0 < value < math.inf

    filters = (config.top_k, config.top_p, config.min_p, config.repetition_penalty)
    counts = ("max_new_tokens", "samples", "beams", "batch_size")
    checks = {f"{name}: must be at least 1": getattr(config, name) >= 1 for name in counts} | {
        "temperature: must be 0 or more": 0 <= config.temperature < math.inf,
        "top_k: must be at least 1": config.top_k is None or config.top_k >= 1,
        "top_p: must be above 0 and at most 1": config.top_p is None or 0 < config.top_p <= 1,
        "min_p: must be from 0 to 1": config.min_p is None or 0 <= config.min_p <= 1,
        "repetition_penalty: must be above 0": above_zero(config.repetition_penalty),
        "length_penalty: must be 0 or more": 0 <= config.length_penalty < math.inf,
        "stop: an empty string would end every text": all(config.stop),
        "beams: draw nothing; leave out top_k, top_p, min_p and repetition_penalty": (
            config.beams <= 1 or filters == (None,) * 4
        ),
        "samples: more than the beams": config.beams <= 1 or config.samples <= config.beams,
    }
    wrong = [problem for problem, fine in checks.items() if not fine]
    fields = {problem.partition(":")[0] for problem in wrong}
    numbers = number_problems(config)
    return [*(line for line in numbers if line.partition(":")[0] not in fields), *wrong]
