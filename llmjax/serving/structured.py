"""What a request says of the form of its answer: OpenAI's `response_format`, and vLLM's fields."""

from collections.abc import Mapping
from typing import Any

from llmjax.engine.grammars import Choice, Grammar, JsonSchema, Lark, Regex
from llmjax.errors import UserError
from llmjax.storage.json_documents import json_text

ANY_OBJECT = '{"type": "object"}'
GUIDED = "guided_"
"""Of the names that vLLM had before `structured_outputs`."""


def grammar_of(
    response_format: Mapping[str, Any] | None, further: Mapping[str, Any]
) -> Grammar | None:
    """The grammar that a request asks for; None: it asks for none.

    Args:
      response_format: {"type": "text" | "json_object" | "json_schema", ...}.
      further: fields that OpenAI does not have: structured_outputs, an object with one of json,
        regex, choice and grammar; or one of these with the prefix guided_.

    Raises:
      UserError: it asks for several, or for one of another form.
    """
    found = [_response_format(response_format)] if response_format else []
    asked = further.get("structured_outputs") or {}
    if not isinstance(asked, Mapping):
        raise UserError("structured_outputs", "is not an object")
    older = {
        name.removeprefix(GUIDED): value
        for name, value in further.items()
        if name.startswith(GUIDED)
    }
    for name, value in [*asked.items(), *older.items()]:
        if value is not None:
            found.append(_structured(name, value))
    grammars = [grammar for grammar in found if grammar is not None]
    if len(grammars) > 1:
        raise UserError("structured output", "is asked for in several ways", "give one")
    return grammars[0] if grammars else None


def _response_format(value: Mapping[str, Any]) -> Grammar | None:
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonSchema(ANY_OBJECT)
    if kind == "json_schema":
        described = value.get("json_schema")
        schema = described.get("schema") if isinstance(described, Mapping) else None
        if schema is None:
            raise UserError("response_format.json_schema", "has no schema")
        return _structured("json", schema)
    raise UserError(
        "response_format.type", f"is {str(kind)[:40]}", "choose text, json_object or json_schema"
    )


def _structured(name: str, value: Any) -> Grammar:
    if name == "json" and isinstance(value, str | Mapping):
        return JsonSchema(value if isinstance(value, str) else json_text(value))
    if name == "regex" and isinstance(value, str):
        return Regex(value)
    if name == "grammar" and isinstance(value, str):
        return Lark(value)
    if name == "choice" and isinstance(value, list) and all(isinstance(x, str) for x in value):
        return Choice(tuple(value))
    thing = f"structured_outputs.{name[:40]}"
    raise UserError(thing, "is not served in this form", "see docs/serve.md for what is")
