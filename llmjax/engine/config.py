"""The config of the engine and the options of its requests; cheap to import."""

from dataclasses import dataclass, field

from llmjax.decoding.config import DecodingConfig, decoding_problems
from llmjax.engine.grammars import Grammar
from llmjax.limits import number_problems

TOP_LOGPROBS = 20
"""Most alternatives whose log-probabilities a request may ask for."""


@dataclass(frozen=True)
class EngineConfig:
    """How requests share a model."""

    max_rows: int = 32
    """Requests decoded at once; further ones wait."""
    max_waiting: int = 256
    """Requests that may wait; further ones are refused."""
    prefill_chunk: int = 256
    """Tokens of prompts read between two steps of decoding."""
    steps_per_call: int = 1
    """Tokens decoded per row between two looks at the queue. More amortize the overhead of a call
    on accelerators, and stream less evenly."""
    cache_tokens: int | None = None
    """Most positions of the cache, rows x length; requests wait for space. None: no limit but
    max_rows times the context."""
    prefix_tokens: int = 1 << 16
    """Positions of prompts kept, so that a prompt that begins like a recent one is not read again
    from its start; 0: none."""
    fixed_shape: bool = False
    """Whether the cache has max_rows rows of the whole context from the start. A request's text is
    then exactly the same alone and in company, at the cost of the memory and time of a full
    batch."""


def engine_problems(config: EngineConfig) -> list[str]:
    """Return all problems of the values, a line each that starts with the field."""
    at_least = {"max_rows": 1, "max_waiting": 0, "prefill_chunk": 1, "steps_per_call": 1}
    at_least |= {"prefix_tokens": 0} | ({} if config.cache_tokens is None else {"cache_tokens": 1})
    wrong = [
        f"{name}: must be at least {least}"
        for name, least in at_least.items()
        if getattr(config, name) < least
    ]
    chunk = config.prefill_chunk
    if chunk >= 1 and chunk & (chunk - 1):
        wrong.append("prefill_chunk: must be a power of two")
    return [*number_problems(config), *wrong]


@dataclass(frozen=True)
class RequestOptions:
    """What a request may ask for besides DecodingConfig.

    Attributes:
      decoding: sampling, stop strings, seed and number of samples; no beams.
      presence_penalty: subtracted from the logits of tokens that the text has.
      frequency_penalty: subtracted from a token's logit for each time that the text has it.
      top_logprobs: number of most likely tokens to report with each token.
      stop_ids: tokens that end a text in addition to those of the tokenizer.
      grammar: what the text must match; None: anything.
    """

    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_logprobs: int = 0
    stop_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None


def request_problems(options: RequestOptions) -> list[str]:
    """Return all problems of the values, a line each that starts with the field."""
    checks = {
        "beams: beam search is not continuous; use llmjax generate": options.decoding.beams == 1,
        "presence_penalty: must be from -2 to 2": -2 <= options.presence_penalty <= 2,
        "frequency_penalty: must be from -2 to 2": -2 <= options.frequency_penalty <= 2,
        f"top_logprobs: must be from 0 to {TOP_LOGPROBS}": (
            0 <= options.top_logprobs <= TOP_LOGPROBS
        ),
    }
    wrong = [problem for problem, fine in checks.items() if not fine]
    return [*decoding_problems(options.decoding), *wrong]
