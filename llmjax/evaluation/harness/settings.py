"""What the harness's tasks say of generation, by our names for it."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from llmjax.decoding.config import DecodingConfig
from llmjax.errors import UserError

log = logging.getLogger(__name__)
Number = TypeVar("Number", int, float)
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

    Raises:
      UserError: a value is no number.
    """
    fields, until = dict(given), given.get("until") or []
    temperature = _number(float, "temperature", fields.pop("temperature", 0.0) or 0.0)
    draws = fields.pop("do_sample", None)
    draws = temperature > 0 if draws is None else draws
    limits = [_number(int, name, fields.pop(name)) for name in LENGTHS if name in fields]
    fields.pop("until", None)
    known = {FIELDS[name]: fields.pop(name) for name in list(fields) if name in FIELDS}
    if not draws:
        known = {name: value for name, value in known.items() if name not in DRAWING}
    if fields:
        log.warning("generation settings without a meaning here: %s", ", ".join(fields))
    return DecodingConfig(
        max_new_tokens=limits[0] if limits else longest,
        temperature=(temperature or 1.0) if draws else 0.0,
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
        batch_size=batch_size,
        **{name: value for name, value in known.items() if value is not None},
    )


def _number(kind: Callable[[Any], Number], name: str, value: Any) -> Number:
    try:
        return kind(value)
    except (OverflowError, TypeError, ValueError) as error:
        where = f"generation_kwargs, {name}"
        raise UserError(where, f"{repr(value)[:40]} is no number", "mend the task") from error
