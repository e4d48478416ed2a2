"""Messages in ShareGPT's form, {"from": ..., "value": ...}, as roles and contents."""

from collections.abc import Mapping
from typing import Any

from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD, parse_json

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's names, and those that data sets for FastChat, axolotl and LLaMA-Factory add."""
CALL = "function_call"
"""The sender of a message that is the JSON text of function calls."""


def is_sharegpt(message: Mapping[str, Any]) -> bool:
    """Whether a message names its sender as `from`."""
    return "from" in message and "role" not in message


def from_sharegpt(where: str, number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a message to {"role": ..., "content": ...}; function calls to `tool_calls`.

    Args:
      where: row and column, for messages.
      number: of the message, from 1.
      message: with the keys `from` and `value`; others are kept.

    Raises:
      UserError: the sender is unknown, or function calls are not JSON objects.
    """
    sender, value = message["from"], message.get("value")
    if not isinstance(sender, str) or sender not in ROLES:
        reason = f"message {number} is from {str(sender)[:40]!r}, an unknown role"
        raise UserError(where, reason, f"use one of {', '.join(ROLES)}")
    others = {name: item for name, item in message.items() if name not in ("from", "value")}
    if sender != CALL:
        return {**others, "role": ROLES[sender], "content": value}
    calls = _calls(f"{where}, message {number}", value)
    return {**others, "role": ROLES[sender], "content": "", "tool_calls": calls}


def _calls(where: str, value: Any) -> list[Any]:
    """Read one function call or a list of them, objects or their JSON text."""
    fix = 'give {"name": ..., "arguments": {...}}'
    if isinstance(value, str):
        value = parse_json(value, where, limits=RECORD, fix=fix)
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, Mapping) for call in calls):
        raise UserError(where, "has function calls that are not objects", fix)
    return [{"type": "function", "function": dict(call)} for call in calls]
