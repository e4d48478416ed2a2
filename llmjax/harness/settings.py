"""What the harness's tasks say of generation, by our names for it."""

import logging
from collections.abc import Mapping
from typing import Any

from llmjax.decoding.config import DecodingConfig

log = logging.getLogger(__name__)
# Theirs -> ours; what is not here is logged and left out.
FIELDS = {
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "repetition_penalty": "repetition_penalty",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
}
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DRAWING = ("temperature", "top_k", "top_p", "min_p")


def decoding(given: Mapping[str, Any], longest: int, batch_size: int) -> DecodingConfig:
    """A task's generation_kwargs as our config: greedy unless sampling is asked for.

    Args:
      given: of one request.
      longest: tokens to write where it does not say.
      batch_size: texts written at once.
    """
    fields, until = dict(given), given.get("until") or []
    temperature = float(fields.pop("temperature", 0.0) or 0.0)
    draws = fields.pop("do_sample", None)
    draws = temperature > 0 if draws is None else draws
    limits = [fields.pop(name) for name in LENGTHS if name in fields]
    fields.pop("until", None)
    known = {FIELDS[name]: fields.pop(name) for name in list(fields) if name in FIELDS}
    if not draws:
        known = {name: value for name, value in known.items() if name not in DRAWING}
    if fields:
        log.warning("generation settings without a meaning here: %s", ", ".join(fields))
    return DecodingConfig(
        max_new_tokens=int(limits[0]) if limits else longest,
        temperature=(temperature or 1.0) if draws else 0.0,
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
        batch_size=batch_size,
        **{name: value for name, value in known.items() if value is not None},
    )
