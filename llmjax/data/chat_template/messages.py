"""Messages as chat templates expect them: what Transformers makes of them before rendering."""

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names under which messages hold reasoning; templates read the first or the second."""


def normalized(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages without keys whose value is None (templates check whether a key is there), and
    with reasoning under the names that templates read."""
    found = []
    for message in messages:
        given = {key: value for key, value in message.items() if value is not None}
        reasoning = next((given[key] for key in REASONING if key in given), None)
        if reasoning is not None:
            given = {"thinking": reasoning, **given, "reasoning_content": reasoning}
        found.append(given)
    return found


def placeholder(value: object) -> str:
    """What a template sees of a value that JSON has no form for (bytes, dates): its type."""
    return f"<{type(value).__name__}>"
