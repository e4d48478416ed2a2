"""Chat templates: what Transformers makes of them; hostile ones refused in seconds."""

import time

import pytest

from llmjax.chat_template import ChatTemplate, child, render, special_tokens
from llmjax.data.tokenizer import BytesTokenizer
from llmjax.errors import UserError

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
        theirs, _ = utils.render_jinja_template(
            [MESSAGES], TOOLS, chat_template=CHATML, add_generation_prompt=prompt, **names
        )
        ours = render(
            CHATML, MESSAGES, add_generation_prompt=prompt, special_tokens=names, tools=TOOLS
        )
        assert ours == theirs[0]


def test_one_process_serves_a_conversation():
    with ChatTemplate(CHATML, special_tokens(BytesTokenizer())) as template:
        first = template.render(MESSAGES)
        start = time.monotonic()
        for _ in range(20):
            assert template.render(MESSAGES) == first
        assert time.monotonic() - start < 2
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
    start = time.monotonic()
    with (
        ChatTemplate(template, {}, seconds=1) as hostile,
        pytest.raises(UserError, match="the chat template"),
    ):
        hostile.render(MESSAGES)
    assert time.monotonic() - start < 10


def test_after_a_hostile_rendering_the_next_one_works():
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    text = "{% if messages|length > 1 %}" + loop + "{% endif %}fine"
    with ChatTemplate(text, {}, seconds=0.5) as template:
        with pytest.raises(UserError, match="longer than"):
            template.render(MESSAGES)
        assert template.render(MESSAGES[:1]) == "fine"
