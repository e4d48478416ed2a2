"""Messages in tables: checked, and as chat templates read them."""

from collections.abc import Mapping, Sequence
from typing import Any

from llmjax.data.chat_template.template import Context
from llmjax.data.tables.table import Row
from llmjax.errors import UserError
from llmjax.storage.json_documents import RECORD, parse_json

Message = dict[str, Any]

ASSISTANT = "assistant"
TOOL = "tool"
FORM = 'give a list of {"role": ..., "content": ...}'


def messages_at(row: Row, column: str) -> list[Message]:
    """The messages of a column.

    Raises:
      UserError: there is no such column, or it holds no messages.
    """
    if column not in row.values:
        fix = f"its columns are {', '.join(map(repr, row.values))}"
        raise UserError(row.place, f"has no column {column!r}", fix)
    return checked(row, column, row.values[column])


def checked(row: Row, column: str, value: Any) -> list[Message]:
    """The value as messages; UserError where it is no list of them."""
    where = f"{row.place}, column {column!r}"
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(where, "is no list of messages", FORM)
    found = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise UserError(where, f"message {number} has no role", FORM)
        found.append(_checked_message(where, number, dict(message)))
    return found


def context_at(row: Row, tools: str | None, documents: str | None) -> Context:
    """What the template reads beside the messages, from the columns of these names; without such a
    column, or where it is empty, the conversation has none.

    Raises:
      UserError: a column holds no list of objects, nor JSON of one.
    """
    return Context(_objects_at(row, tools), _objects_at(row, documents))


def text_of(content: Any) -> str:
    """The text of a message's content: a text, a list of parts, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(part["text"] for part in content if _is_text_part(part))
    return ""


def flat(messages: Sequence[Message]) -> list[Message]:
    """The messages with a text in place of each list of text parts: for templates that read no
    parts."""
    return [
        {**one, "content": text_of(one["content"])} if _has_parts(one) else one for one in messages
    ]


def has_parts(messages: Sequence[Message]) -> bool:
    """Whether the content of any is a list of parts."""
    return any(map(_has_parts, messages))


def calls_of(message: Message) -> list[Mapping[str, Any]]:
    """The functions that a message calls: {"name": ..., "arguments": ...} each."""
    return [call.get("function", call) for call in message.get("tool_calls") or ()]


def with_objects(messages: Sequence[Message]) -> list[Message]:
    """The messages with objects in place of arguments that are JSON texts."""
    return [
        {**one, "tool_calls": [_with_object(call) for call in one["tool_calls"]]}
        if one.get("tool_calls")
        else one
        for one in messages
    ]


def text_arguments(messages: Sequence[Message]) -> list[str]:
    """The arguments of tool calls that are JSON texts instead of objects."""
    every = (call.get("arguments") for one in messages for call in calls_of(one))
    return [arguments for arguments in every if isinstance(arguments, str)]


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _with_object(call["function"])}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    return {**call, "arguments": parse_json(arguments, "a tool call's arguments", limits=RECORD)}


def _checked_message(where: str, number: int, message: Message) -> Message:
    what, content = f"message {number}", message.get("content")
    if message.get("tool_calls") is not None:
        message["tool_calls"] = _checked_calls(where, what, message["tool_calls"])
    calls = message.get("tool_calls")
    if isinstance(content, Sequence) and not isinstance(content, str) and message["role"] != TOOL:
        _check_parts(where, what, content)
    elif not isinstance(content, str) and not calls and message["role"] != TOOL:
        raise UserError(where, f"{what} has no text as its content", FORM)
    if message["role"] == ASSISTANT and not calls and not text_of(content).strip():
        raise UserError(where, f"{what}, the assistant's, is empty", "fill it in")
    return message


def _check_parts(where: str, what: str, parts: Sequence[Any]) -> None:
    for part in parts:
        if not _is_text_part(part):
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            reason = f"{what} has a part of type {str(kind)[:40]!r}, and only text is read"
            raise UserError(where, reason, 'keep parts {"type": "text", "text": ...} alone')


def _checked_calls(where: str, what: str, calls: Any) -> list[Any] | None:
    fix = 'give a list of {"type": "function", "function": {"name": ..., "arguments": {...}}}'
    if isinstance(calls, str):
        calls = parse_json(calls, f"{where}, {what}, tool_calls", limits=RECORD, fix=fix)
    if not isinstance(calls, Sequence):
        raise UserError(where, f"{what} has tool_calls that are no list", fix)
    for call in calls:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise UserError(where, f"{what} has a tool call without a function's name", fix)
    return list(calls) or None


def _objects_at(row: Row, column: str | None) -> list[Mapping[str, Any]] | None:
    value = None if column is None else row.values.get(column)
    where, fix = f"{row.place}, column {column!r}", "give a list of objects, or name another column"
    if isinstance(value, str):
        value = parse_json(value, where, limits=RECORD, fix=fix) if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(where, "is no list of objects", fix)
    if not all(isinstance(one, Mapping) for one in value):
        raise UserError(where, "holds what is no object", fix)
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
