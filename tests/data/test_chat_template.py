"""Chat templates render as in Transformers; hostile ones are refused in seconds."""

import subprocess
from datetime import datetime
from unittest import mock

import pytest

from llmjax.data.chat_template import child
from llmjax.data.chat_template.template import (
    ChatTemplate,
    Context,
    render,
    special_tokens,
)
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.storage.json_documents import JsonLimits

CHATML = """{% for message in messages %}
    {% if message['role'] == 'nobody' %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}
    {%- else %}{{ message.content }}{% endif %}
    {{- '<|im_end|>\\n' -}}
{% endfor %}
{% if tools %}{{ tools | tojson(indent=1) }}{% endif %}
{%- if add_generation_prompt %}{{ bos_token }}<|im_start|>assistant\n{% endif %}"""
MESSAGES = [
    {"role": "system", "content": 'Be <brief> & "kind".'},
    {"role": "user", "content": "Hallo 🙂\n  wie geht's?"},
    {"role": "nobody", "content": "x"},
    {"role": "assistant", "content": "Gut."},
]
TOOLS = [{"type": "function", "function": {"name": "f<é>", "parameters": {}}}]


def test_a_conversation_is_spelt():
    text = render(CHATML, MESSAGES[1:2], add_generation_prompt=True, special_tokens={})
    assert text == "<|im_start|>user\nHallo 🙂\n  wie geht's?<|im_end|>\n<|im_start|>assistant\n"


def test_as_transformers_does():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    for prompt in (False, True):
        expected, _ = utils.render_jinja_template(
            [MESSAGES], TOOLS, chat_template=CHATML, add_generation_prompt=prompt, **names
        )
        text = render(
            CHATML, MESSAGES, add_generation_prompt=prompt, special_tokens=names, tools=TOOLS
        )
        assert text == expected[0]


TWISTED = """{%- set ns = namespace(count=0) -%}
{%- for m in messages -%}{%- if loop.index > 5 %}{% break %}{% endif -%}
{{ m.role }}|{{ m.content | default('none', true) }}|{{ m.reasoning_content }}|{{ m.thinking }}|
{%- set ns.count = ns.count + 1 %}{{ m.keys() | list }}
{%- for c in m.tool_calls or [] %}
{{ c.function.name }}{{ c.function.arguments | tojson(separators=(',', ':'), sort_keys=true) }}
{{- c.function.arguments | tojson(ensure_ascii=true) }}{% endfor %}
{% generation %}{% set ns.count = ns.count + 1 %}{{ dict(a=ns.count) }}{% endgeneration %}
{% endfor %}{{ eos_token }}{{ pad_token }}{{ strftime_now('%Y') }}{{ documents }}{{ tools }}"""
TWISTED_MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "é"}], "name": None},
    {"role": "assistant", "content": None, "reasoning": "so", "tool_calls": None},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": {"b": "é<", "a": [1.5, None]}}},
            {"id": "2", "function": {"name": "g", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "name": "f", "content": {"a": True}},
    *[{"role": "user", "content": "x"}] * 3,
]


def test_what_templates_find_is_what_transformers_gives_them():
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    normalize = pytest.importorskip("transformers.tokenization_utils_base")._normalize_chat_messages
    names, documents = {"eos_token": "</s>"}, [{"title": "T", "text": "é"}]
    expected, spans = utils.render_jinja_template(
        [normalize(TWISTED_MESSAGES)],
        TOOLS,
        documents,
        TWISTED,
        return_assistant_tokens_mask=True,
        **names,
    )
    with ChatTemplate(TWISTED, names) as template:
        assert template.has_generation_blocks
        context = Context(TOOLS, documents)
        assert template.render_spans(TWISTED_MESSAGES, context=context) == (expected[0], spans[0])
        options = {"add_generation_prompt": False, "context": context}
        assert template.render(TWISTED_MESSAGES, **options) == expected[0]


@pytest.mark.parametrize(
    ("template", "spans"),
    [
        ("a{% generation %}b{% endgeneration %}c", [(1, 2)]),
        ("{%- generation -%} b {%- endgeneration -%}", [(0, 1)]),
        ("{% generation %}{% generation %}a{% endgeneration %}b{% endgeneration %}", [(0, 2)]),
        ("{% generation %}{% endgeneration %}a", []),
        ("{% macro f() %}{% generation %}b{% endgeneration %}{% endmacro %}aa{{ f() }}", [(2, 3)]),
        ("{% set x %}a{% generation %}b{% endgeneration %} {% endset %}{{ x | trim }}c", [(1, 2)]),
    ],
)
def test_blocks_of_what_the_model_writes(template, spans):
    with ChatTemplate(template, {}) as renderer:
        assert renderer.has_generation_blocks
        text, blocks = renderer.render_spans(MESSAGES)
        assert blocks == spans
        assert text == renderer.render(MESSAGES)


def test_blocks_whose_text_depends_on_their_marks_are_refused():
    template = "{% set x %}{% generation %} b {% endgeneration %}{% endset %}{{ x | trim }}"
    with (
        ChatTemplate(template, {}) as renderer,
        pytest.raises(UserError, match="changes the text of"),
    ):
        renderer.render_spans(MESSAGES)


def test_the_time_is_the_callers():
    with ChatTemplate("{{ strftime_now('%d %b %Y %H:%M:%S') }}", {}) as template:
        now = datetime(2024, 2, 29, 12, 30, 1)
        assert template.render(MESSAGES, now=now.timestamp()) == "29 Feb 2024 12:30:01"


def test_values_that_json_does_not_have_are_named_by_their_type():
    text = "{{ messages[0].content }}"
    assert render(text, [{"role": "user", "content": b"x"}]) == "<bytes>"
    with pytest.raises(UserError, match="the messages: are not JSON"):
        render(text, [{"role": "user", "content": {("a", "b"): 1}}])


def test_a_message_of_the_templates_own_is_one_short_line():
    with pytest.raises(UserError) as caught:
        render("{{ raise_exception('no\\n\x1b[31mred' ~ 'x' * 10**7) }}", MESSAGES)
    assert "no ?[31mredxxx" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_answer_is_read_up_to_a_limit(monkeypatch):
    limit = JsonLimits(size=1000, marks=1000, depth=5)
    monkeypatch.setattr("llmjax.data.chat_template.template.ANSWER", limit)
    with ChatTemplate("{{ 'x' * messages[0].content | int }}", {}) as template:
        assert len(template.render([{"role": "user", "content": "900"}])) == 900
        with pytest.raises(UserError, match="the chat template: needs too much"):
            template.render([{"role": "user", "content": "100000"}])
        assert len(template.render([{"role": "user", "content": "900"}])) == 900


def test_one_process_serves_a_conversation():
    with ChatTemplate(CHATML, special_tokens(BytesTokenizer())) as template:
        first = template.render(MESSAGES)
        with mock.patch.object(subprocess, "Popen") as start:
            for _ in range(3):
                assert template.render(MESSAGES) == first
        start.assert_not_called()
    assert first.endswith("<bos><|im_start|>assistant\n")


def test_a_template_is_compiled_once_and_remembers_nothing(monkeypatch):
    seen, compile_ = [], child.Sandbox.compile

    def compiled(self, source, *more, **options):
        seen.append(source)
        return compile_(self, source, *more, **options)

    monkeypatch.setattr(child.Sandbox, "compile", compiled)
    counts = (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{% if messages %}{% set last = messages[-1] %}{% endif %}{{ ns.n }} {{ last }}"
    )
    request = {"template": counts, "values": {"messages": ["a", "b"]}}
    for _ in range(3):
        assert child.answer(request) == {"text": "2 b"}
    assert child.answer({"template": counts, "values": {"messages": []}}) == {"text": "0 "}
    assert seen == [counts]


def test_a_template_may_refuse_and_may_be_wrong():
    with pytest.raises(UserError, match="no system role"):
        render("{{ raise_exception('no system role') }}", MESSAGES)
    with pytest.raises(UserError, match="line 2"):
        render("x\n{% if %}", MESSAGES)
    with pytest.raises(UserError, match="TypeError"):
        render("{{ 1 + messages }}", MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'a': 1}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ namespace(_x=1) }}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ (''|attr('__class__')) }}",
        "{% include 'x' %}",
        "{% import '/etc/passwd' as x %}",
    ],
)
def test_escapes_are_refused(template):
    with pytest.raises(UserError):
        render(template, MESSAGES)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 'x' * 10 ** 10 }}",
        "{% set ns = namespace(x='xxxxxxxxxx') %}{% for i in range(60) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ '%999999999999d' | format(1) }}",
    ],
)
def test_what_has_no_end_is_ended(template):
    with (
        ChatTemplate(template, {}, seconds=1) as hostile,
        pytest.raises(UserError, match="the chat template"),
    ):
        hostile.render(MESSAGES)


def test_after_a_hostile_rendering_the_next_one_works():
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    text = "{% if messages|length > 1 %}" + loop + "{% endif %}fine"
    with ChatTemplate(text, {}, seconds=0.5) as template:
        with pytest.raises(UserError, match="longer than"):
            template.render(MESSAGES)
        assert template.render(MESSAGES[:1]) == "fine"
