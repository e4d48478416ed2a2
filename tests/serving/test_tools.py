"""Calls of tools: read from texts, streamed, and forced."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmjax.engine.grammars import GrammarCompiler
from llmjax.errors import UserError
from llmjax.serving.tools import (
    FORMATS,
    Call,
    ToolStream,
    forced_call,
    format_of,
    parse_calls,
    with_decoded_calls,
)
from untrained import in_hand

HERMES, MISTRAL, LLAMA, PLAIN = FORMATS
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}
OSLO = Call("weather", '{"city": "Oslo"}')


@pytest.mark.parametrize(
    ("form", "text", "said", "names"),
    [
        (HERMES, '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>', "", ["a"]),
        (
            HERMES,
            'Let me see.\n<tool_call>{"name": "a", "arguments": {"x": 1}}</tool_call>\n'
            '<tool_call>{"name": "b", "arguments": {}}</tool_call>',
            "Let me see.\n",
            ["a", "b"],
        ),
        (HERMES, "No tool.", "No tool.", []),
        (HERMES, '<tool_call>{"name": "a", "argu', '<tool_call>{"name": "a", "argu', []),
        (
            HERMES,
            '<tool_call>{"name": "a", "arguments": {}}\n</tool',
            '<tool_call>{"name": "a", "arguments": {}}\n</tool',
            [],
        ),
        (MISTRAL, '[TOOL_CALLS] [{"name": "a", "arguments": {}}]', "", ["a"]),
        (MISTRAL, '[{"name": "a", "arguments": {}}, {"name": "b"}]', "", ["a", "b"]),
        (LLAMA, '{"name": "a", "parameters": {"q": "x"}}', "", ["a"]),
        (LLAMA, '<|python_tag|>{"name": "a", "parameters": {}}', "", ["a"]),
        (PLAIN, '{"name": "a", "arguments": {}}', "", ["a"]),
        (PLAIN, '{"colour": "red"}', '{"colour": "red"}', []),
        (PLAIN, "[1, 2]", "[1, 2]", []),
        (PLAIN, "[" * 100_000, "[" * 100_000, []),
    ],
)
def test_calls_are_read_from_a_text(form, text, said, names):
    found, calls = parse_calls(text, form)
    assert found == said
    assert [call.name for call in calls] == names
    assert all(isinstance(json.loads(call.arguments), dict) for call in calls)


def test_the_form_is_that_of_the_template():
    assert format_of("{% if tools %}<tool_call>{% endif %}") is HERMES
    assert format_of("...[TOOL_CALLS]...") is MISTRAL
    assert format_of("<|python_tag|>") is LLAMA
    assert format_of("") is PLAIN


@given(
    text=st.sampled_from(
        [
            'Yes: <tool_call>{"name": "a", "arguments": {"x": "<"}}</tool_call>',
            "a <tool_ b <tool_call c",
            '<tool_call>{"name": "a", "arguments": {}}</tool_call>',
            "plain < text",
            "[1] is a list",
        ]
    ),
    cuts=st.lists(st.integers(0, 70), max_size=6),
)
def test_a_stream_says_what_the_whole_text_says(text, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    stream = ToolStream(HERMES)
    sent = [stream.push(text[a:b]) for a, b in itertools.pairwise(edges)]
    rest, calls = stream.finish()
    said, expected = parse_calls(text, HERMES)
    assert "".join(sent) + rest == said
    assert calls == expected


@pytest.fixture(scope="module")
def tokenizer():
    return in_hand(num_decoder_layers=1).tokenizer


def fits(tokenizer, grammar, text: str) -> bool:
    """Whether a grammar allows each of the text's tokens, and the end after them."""
    matcher = GrammarCompiler(tokenizer).matcher(grammar)
    for token in tokenizer.encode(text):
        if not matcher.allowed(tokenizer.stop_ids)[token]:
            return False
        matcher.accept(token)
    return bool(matcher.allowed(tokenizer.stop_ids)[tokenizer.eos_id])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.mark or "plain")
def test_a_forced_call_has_the_form_and_the_schema(tokenizer, form):
    def written(name: str, arguments: dict) -> str:
        return form.begin + json.dumps({"name": name, form.arguments: arguments}) + form.end

    named = {"type": "function", "function": {"name": "weather"}}
    any_tool = forced_call([WEATHER, TIME], "required", form)
    one = forced_call([WEATHER, TIME], named, form)
    assert fits(tokenizer, any_tool, written("weather", {"city": "Oslo"}))
    assert fits(tokenizer, any_tool, written("time", {}))
    assert fits(tokenizer, one, written("weather", {"city": "Rome"}))
    assert not fits(tokenizer, one, written("time", {}))
    assert not fits(tokenizer, one, written("weather", {"city": "Bonn"}))
    assert parse_calls(written("weather", {"city": "Oslo"}), form) == ("", [OSLO])
    assert forced_call([WEATHER], "auto", form) is None


@pytest.mark.parametrize(
    ("tools", "choice", "problem"),
    [
        ([WEATHER], {"type": "function", "function": {"name": "else"}}, "names no tool"),
        ([], "required", "needs tools"),
        ([{"type": "function"}], "required", "without a function with a name"),
    ],
)
def test_mistakes_are_named(tools, choice, problem):
    with pytest.raises(UserError, match=problem):
        forced_call(tools, choice, HERMES)


def test_templates_get_arguments_as_objects():
    call = {"id": "1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    (decoded,) = with_decoded_calls(message)["tool_calls"]
    assert decoded["function"]["arguments"] == {"city": "Oslo"}
    call["function"]["arguments"] = "{"
    with pytest.raises(UserError, match="arguments of a tool call"):
        with_decoded_calls(message)
