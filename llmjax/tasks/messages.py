"""Chat messages in tables: validation, and the forms that templates read."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmjax.data.chat_template.template import Context
from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD, parse_json
from llmjax.tasks.sharegpt import from_sharegpt, is_sharegpt

Message = dict[str, Any]

SYSTEM = "system"
USER = "user"
ASSISTANT = "assistant"
TOOL = "tool"
ALIASES = {"human": USER, "gpt": ASSISTANT}
"""ShareGPT's names of roles, also understood as roles."""
ROLES = (SYSTEM, "developer", USER, ASSISTANT, TOOL, "function", "ipython", "observation")
"""The roles that templates of published models know."""
FORM = 'give a list of {"role": ..., "content": ...}'


def messages_at(row: Row, column: str) -> list[Message]:
    """Read the messages of a column.

    Raises:
      UserError: the column is missing, or does not hold messages.
    """
    if column not in row.values:
        fix = f"its columns are {', '.join(map(repr, row.values))}"
        raise UserError(row.place, f"has no column {column!r}", fix)
    return checked(row, column, row.values[column])


def checked(row: Row, column: str, value: Any) -> list[Message]:
    """Validate a value as a list of messages, {"role", "content"} or {"from", "value"} each.

    Raises:
      UserError: it is no such list, or a role is unknown.
    """
    where = f"{row.place}, column {column!r}"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(where, "is not a list of messages", FORM)
    messages = []
    for number, message in enumerate(value, 1):
        messages.append(_checked_message(where, number, _with_role(where, number, message)))
    return messages


def context_at(row: Row, tools: str | None, documents: str | None) -> Context:
    """Read the template's other inputs from these columns, which may be missing or empty.

    Raises:
      UserError: a column is neither a list of objects nor JSON of one.
    """
    return Context(_objects_at(row, tools), _objects_at(row, documents))


def text_of(content: Any) -> str:
    """Return the text of a message's content: a string, a list of parts, or None."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(part["text"] for part in content if _is_text_part(part))
    return ""


def flat(messages: Sequence[Message]) -> list[Message]:
    """Join text parts into strings, for templates that do not read parts."""
    return [
        {**message, "content": text_of(message["content"])} if _has_parts(message) else message
        for message in messages
    ]


def has_parts(messages: Sequence[Message]) -> bool:
    """Whether any message's content is a list of parts."""
    return any(map(_has_parts, messages))


def calls_of(message: Message) -> list[Mapping[str, Any]]:
    """Return the functions that a message calls, {"name": ..., "arguments": ...} each."""
    return [call.get("function", call) for call in message.get("tool_calls") or ()]


def with_objects(messages: Sequence[Message]) -> list[Message]:
    """Decode JSON-encoded tool call arguments to objects."""
    return [
        {**message, "tool_calls": [_with_object(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def text_arguments(messages: Sequence[Message]) -> list[str]:
    """Return the JSON-encoded arguments of tool calls."""
    calls = (call for message in messages for call in calls_of(message))
    arguments = (call.get("arguments") for call in calls)
    return [encoded for encoded in arguments if isinstance(encoded, str)]


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _with_object(call["function"])}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    return {**call, "arguments": parse_json(arguments, "a tool call's arguments", limits=RECORD)}


def _with_role(where: str, number: int, message: Any) -> Message:
    """Return a copy of a message with one of ROLES."""
    if isinstance(message, Mapping) and is_sharegpt(message):
        return from_sharegpt(where, number, message)
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str):
        raise UserError(where, f"message {number} has no role", FORM)
    role = ALIASES.get(role, role)
    if role not in ROLES:
        reason = f"message {number} has the unknown role {role[:40]!r}"
        raise UserError(where, reason, f"use one of {', '.join(ROLES)}")
    return {**message, "role": role}


def _checked_message(where: str, number: int, message: Message) -> Message:
    name, content = f"message {number}", message.get("content")
    if message.get("tool_calls") is not None:
        message["tool_calls"] = _checked_calls(where, name, message["tool_calls"])
    calls = message.get("tool_calls")
    if isinstance(content, Sequence) and not isinstance(content, str) and message["role"] != TOOL:
        _check_parts(where, name, content)
    elif not isinstance(content, str) and not calls and message["role"] != TOOL:
        raise UserError(where, f"{name} has no text content", FORM)
    if message["role"] == ASSISTANT and not calls and not text_of(content).strip():
        raise UserError(where, f"{name}, the assistant's, is empty", "fill it in")
    return message


def _check_parts(where: str, name: str, parts: Sequence[Any]) -> None:
    for part in parts:
        if not _is_text_part(part):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            reason = f"{name} has a part of type {str(kind)[:40]!r}; only text is supported"
            raise UserError(where, reason, 'keep only parts {"type": "text", "text": ...}')


def _checked_calls(where: str, name: str, calls: Any) -> list[Any] | None:
    fix = 'give a list of {"type": "function", "function": {"name": ..., "arguments": {...}}}'
    if isinstance(calls, str):
        calls = parse_json(calls, f"{where}, {name}, tool_calls", limits=RECORD, fix=fix)
    if not isinstance(calls, Sequence):
        raise UserError(where, f"{name} has tool_calls that are not a list", fix)
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(where, f"{name} has a tool call without a function name", fix)
    return list(calls) or None


def _objects_at(row: Row, column: str | None) -> list[Mapping[str, Any]] | None:
    value = None if column is None else row.values.get(column)
    where, fix = f"{row.place}, column {column!r}", "give a list of objects, or name another column"
    if isinstance(value, str):
        value = parse_json(value, where, limits=RECORD, fix=fix) if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(where, "is not a list of objects", fix)
    if not all(isinstance(item, Mapping) for item in value):
        raise UserError(where, "contains an item that is not an object", fix)
    return list(value)


def _has_parts(message: Message) -> bool:
    content = message.get("content")
    return isinstance(content, list | tuple) and all(map(_is_text_part, content))


def _is_text_part(part: Any) -> bool:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )
