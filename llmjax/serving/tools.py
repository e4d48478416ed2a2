"""Calls of tools: how models write them, and how OpenAI's API has them."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmjax.engine.grammars import Grammar, Lark
from llmjax.errors import UserError
from llmjax.storage.json_documents import SETTINGS, json_text, parse_json

LARGEST = 1 << 16
"""Characters of the tools that a request describes."""
COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Whitespace of forced calls, as json.dumps has it."""


@dataclass(frozen=True)
class ToolFormat:
    """How the models of a template write a call: `begin`, a JSON object or a list of these, `end`.

    A template's special tokens do not appear in a text, so `begin` may be missing there.
    """

    mark: str
    """What templates of this form hold."""
    begin: str
    end: str
    arguments: str = "arguments"
    """The member of the object with the arguments."""


FORMATS = (
    ToolFormat("<tool_call>", "<tool_call>", "</tool_call>"),  # Hermes, Qwen
    ToolFormat("[TOOL_CALLS]", "[TOOL_CALLS]", ""),  # Mistral
    ToolFormat("<|python_tag|>", "<|python_tag|>", "", "parameters"),  # Llama 3
    ToolFormat("", "", ""),
)
"""To add one, add a line; the first whose mark a template holds is taken."""


class Call(NamedTuple):
    """A call of a tool; `arguments` is JSON."""

    name: str
    arguments: str


def format_of(template: str) -> ToolFormat:
    """The form of a chat template's calls."""
    return next(each for each in FORMATS if each.mark in template)


def parse_calls(text: str, form: ToolFormat) -> tuple[str, list[Call]]:
    """Splits a text into what is said and the calls; a call that is not complete is text.

    Args:
      text: as the model wrote it.
      form: of its calls.
    """
    said, calls, rest = "", list[Call](), text
    while rest.strip():
        before, begin, after = rest.partition(form.begin) if form.begin else ("", "", rest)
        if form.begin and not begin:
            before, after = "", rest  # the mark may have been a special token
        written, _, later = after.partition(form.end) if form.end else (after, "", "")
        found = _decoded(written, form) if begin or not calls else []
        if not found:
            return said + rest, calls
        calls += found
        said += before if before.strip() else ""
        rest = later.lstrip()
    return said, calls


def _decoded(text: str, form: ToolFormat) -> list[Call]:
    """The calls that a text consists of; none if it has another form."""
    if not text.strip().startswith(("{", "[")):
        return []
    try:
        value = parse_json(text.strip(), "a call", limits=SETTINGS)
    except UserError:
        return []
    calls = [_call(item, form) for item in (value if isinstance(value, list) else [value])]
    whole = [call for call in calls if call is not None]
    return whole if len(whole) == len(calls) else []


def _call(value: Any, form: ToolFormat) -> Call | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get(form.arguments, value.get("arguments", {}))
    if not isinstance(arguments, Mapping):
        return None
    return Call(value["name"], json_text(arguments))


def call_objects(calls: Sequence[Call], *, indexed: bool = False) -> list[dict[str, Any]]:
    """The calls as the API has them, each with an id; `indexed` as in a stream."""
    return [
        ({"index": index} if indexed else {})
        | {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls)
    ]


def forced_call(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None, form: ToolFormat
) -> Grammar | None:
    """What holds an answer to a call, if the request asks for one: of any tool, or of one by name.

    Args:
      tools: that the request describes.
      choice: auto, none, required, or {"type": "function", "function": {"name": ...}}.
      form: of the model's calls.

    Raises:
      UserError: the named tool is not among them, or they have no name or schema.
    """
    if choice in (None, "auto", "none"):
        return None
    functions = [_function(tool) for tool in tools]
    if choice != "required":
        name = _function(choice).get("name") if isinstance(choice, Mapping) else None
        functions = [function for function in functions if function["name"] == name]
        if not functions:
            raise UserError("tool_choice", "names no tool of the request", "add it to tools")
    if not functions:
        raise UserError("tool_choice", "needs tools", "describe some, or leave it out")
    schema = {"anyOf": [_schema(function, form) for function in functions], "x-guidance": COMPACT}
    text = json_text(schema)
    if len(text) > LARGEST:
        raise UserError("tools", f"have {len(text)} characters, of at most {LARGEST}")
    parts = [json.dumps(form.begin)] if form.begin else []
    parts += ["call", *([json.dumps(form.end)] if form.end else [])]
    return Lark(f"start: {' '.join(parts)}\ncall: %json {text}\n")


def _function(tool: Any) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError("tools", "has one without a function with a name")
    return function


def _schema(function: Mapping[str, Any], form: ToolFormat) -> dict[str, Any]:
    parameters = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, form.arguments: parameters},
        "required": ["name", form.arguments],
        "additionalProperties": False,
    }


def with_decoded_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates read it: the arguments of its calls as objects, not as JSON.

    Raises:
      UserError: the arguments are not JSON.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    decoded = []
    for call in calls:
        function = dict(_function(call))
        if isinstance(arguments := function.get("arguments"), str):
            function["arguments"] = parse_json(arguments or "{}", "the arguments of a tool call")
        decoded.append({**call, "function": function})
    return {**message, "tool_calls": decoded}


class ToolStream:
    """Streams an answer that may hold calls: text at once, calls when they are complete."""

    def __init__(self, form: ToolFormat):
        self._form, self._text, self._sent = form, "", 0

    def push(self, text: str) -> str:
        """Adds text; returns what is surely not part of a call."""
        self._text += text
        start, begin = self._text.lstrip(), self._form.begin
        if not start or start.startswith(("{", "[")) or (begin and begin.startswith(start)):
            return ""
        end = len(self._text)
        if begin:
            found = self._text.find(begin)
            held = next((n for n in range(len(begin), 0, -1) if self._text.endswith(begin[:n])), 0)
            end = found if found >= 0 else end - held
        new = self._text[self._sent : end]
        self._sent = max(self._sent, end)
        return new

    def finish(self) -> tuple[str, list[Call]]:
        """The rest of the text, and the calls."""
        said, calls = parse_calls(self._text, self._form)
        return said[self._sent :] if len(said) >= self._sent else "", calls
