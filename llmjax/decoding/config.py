"""The config of text generation; cheap to import."""

import math
from dataclasses import dataclass

from llmjax.limits import number_problems


@dataclass(frozen=True)
class DecodingConfig:
    """Text generation. Filters apply in this order: repetition penalty, temperature, top-k, top-p,
    min-p."""

    max_new_tokens: int = 128
    """Maximum tokens to generate; fewer if the text ends or the context is full."""
    temperature: float = 0.8
    """Divides the logits: below 1 less random, above 1 more. 0: greedy decoding."""
    top_k: int | None = None
    """Sample from the k most likely tokens."""
    top_p: float | None = None
    """Sample from the smallest set of most likely tokens whose probabilities sum to this."""
    min_p: float | None = None
    """Sample from tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float | None = None
    """Above 1: make tokens of the prompt and of the text so far less likely (arXiv:1909.05858)."""
    samples: int = 1
    """Completions per prompt; with beam search, the best ones."""
    beams: int = 1
    """Above 1: beam search for the most likely text, without sampling or temperature."""
    length_penalty: float = 1.0
    """Rank beams by log-probability / tokens ** this."""
    stop: tuple[str, ...] = ()
    """End the text before the first of these strings."""
    seed: int = 0
    """Random seed; a completion depends on it, the prompt and the sample's index alone."""
    batch_size: int = 16
    """Completions generated at once."""


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
"""The fields that decide how a token is drawn from the model's distribution."""


def decoding_problems(config: DecodingConfig) -> list[str]:
    """Return all problems of the values, a line each that starts with the field."""

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
