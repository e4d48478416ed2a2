"""The assistant's turns in templates modelled on published ones, by hand and against Transformers'
masks."""

import jinja2
import pytest
from chat_templates import QWEN3, R1, SPECIAL, TEMPLATES, plain
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llmjax.data.chat_template.template import Context
from llmjax.data.tokenizers.huggingface.tokenizer import HuggingFaceTokenizer
from llmjax.errors import UserError
from llmjax.tasks.conversations import PLAIN, ChatEncoder

NAMES = {"bos_token": "<bos>", "eos_token": "</s>"}


def letters():
    """A tokenizers.Tokenizer: a token for each byte, and special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    return inner


@pytest.fixture(scope="module")
def tokenizer():
    names = {**NAMES, "pad_token": None, "mask_token": None}
    return HuggingFaceTokenizer(letters().to_str().encode(), names)


@pytest.fixture(scope="module")
def reference():
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=letters(), **NAMES)


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


def turns_of(tokenizer, chat):
    """The texts of the spans of each conversation."""
    inner = letters()
    return [
        [inner.decode(item.tokens[a:b], skip_special_tokens=False) for a, b in item.spans]
        for item in chat
    ]


def encoded(tokenizer, template, messages, context=None, **options):
    with ChatEncoder(tokenizer, template) as encoder:
        return encoder.encode(messages, context or Context(), **options)


SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [user("Hi"), bot("Hello!"), user("Why?"), bot("Because\nso.")]
THOUGHT = "<think>\nHm.\n</think>\n\n"
ANSWERS = {
    "chatml": ["Hello!<|im_end|>", "Because\nso.<|im_end|>"],
    "llama3": ["Hello!<|eot_id|>", "Because\nso.<|eot_id|>"],
    "mistral": [" Hello!</s>", " Because\nso.</s>"],
    "gemma": ["Hello!<end_of_turn>", "Because\nso.<end_of_turn>"],
    "r1": ["Hello!<|end_of_sentence|>", "Because\nso.<|end_of_sentence|>"],
    "phi": ["Hello!<|end|>", "Because\nso.<|end|>"],
    "zephyr": ["\nHello!</s>", "\nBecause\nso.</s>"],
    "smollm2": ["Hello!<|im_end|>", "Because\nso.<|im_end|>"],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_answers_and_what_ends_them(tokenizer, name):
    chat = encoded(tokenizer, plain(TEMPLATES[name]), TALK)
    assert turns_of(tokenizer, chat) == [ANSWERS[name]]


def test_thoughts_that_only_the_last_turn_keeps(tokenizer):
    """Each answer is a target as the model would generate it: with its thoughts, after prompts
    without those of earlier turns."""
    talk = [user("Hi"), bot(THOUGHT + "A"), user("Why?"), bot(THOUGHT + "B")]
    chat = encoded(tokenizer, plain(QWEN3), talk)
    assert turns_of(tokenizer, chat) == [[THOUGHT + "A<|im_end|>"], [THOUGHT + "B<|im_end|>"]]
    read = letters().decode(chat[1].tokens, skip_special_tokens=False)
    assert read.startswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n")
    (chat,) = encoded(tokenizer, plain(QWEN3), talk[2:])
    given = [user("Why?"), bot("B", reasoning_content="Hm.")]
    assert encoded(tokenizer, plain(QWEN3), given) == [chat]
    given = [user("Why?"), bot("B", thinking="Hm.")]
    assert encoded(tokenizer, plain(QWEN3), given) == [chat]


@pytest.mark.parametrize("answer", ["<b>A</b>", "A", "<", "think>", "  A\n", "see </think>< B"])
def test_a_prompt_that_the_answers_do_not_continue(tokenizer, answer):
    """R1's prompt ends with <think>, which its template drops from answers."""
    with ChatEncoder(tokenizer, plain(R1)) as encoder:
        for thought in ("", THOUGHT, "a</think>"):
            chat = encoder.encode([user("1 < 2"), bot(thought + answer)])
            expected = (thought + answer).split("</think>")[-1] + "<|end_of_sentence|>"
            assert turns_of(tokenizer, chat) == [[expected]]


def test_history_that_changes_once_it_is_answered(tokenizer):
    """Mistral's first templates put the system prompt into the last message only, if it is the
    user's."""
    chat = encoded(tokenizer, plain(TEMPLATES["mistral"]), [SYSTEM, *TALK])
    assert turns_of(tokenizer, chat) == [ANSWERS["mistral"]]


@pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "r1", "phi", "zephyr", "smollm2"])
def test_two_answers_in_a_row_and_an_answer_first(tokenizer, name):
    first, second = ANSWERS[name]
    template = plain(TEMPLATES[name])
    row = [user("Hi"), bot("Hello!"), bot("Because\nso.")]
    assert turns_of(tokenizer, encoded(tokenizer, template, row)) == [[first, second]]
    opening = [bot("Hello!"), user("Why?"), bot("Because\nso.")]
    assert turns_of(tokenizer, encoded(tokenizer, template, opening)) == [[first, second]]


def test_no_prompt_where_an_answer_follows_an_answer(tokenizer):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
        "<|im_start|>assistant\n{% endif %}"
    )
    row = [user("Hi"), bot("<|im_start|>assistant\nA"), bot("B")]
    result = turns_of(tokenizer, encoded(tokenizer, template, row))
    assert result == [["<|im_start|>assistant\nA<|im_end|>", "B<|im_end|>"]]


def test_an_end_of_several_tokens_is_whole(tokenizer):
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
        "{% if m.role == 'assistant' %}<|end|>{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    result = turns_of(tokenizer, encoded(tokenizer, template, TALK))
    assert result == [["Hello!<|end|><|im_end|>", "Because\nso.<|end|><|im_end|>"]]


def test_content_that_is_changed_all_over(tokenizer):
    upper = R1.replace("{{- content +", "{{- content | upper +")
    result = turns_of(tokenizer, encoded(tokenizer, plain(upper), [user("a"), bot("<x> y")]))
    assert result == [["<X> Y<|end_of_sentence|>"]]
    backwards = R1.replace("{{- content +", "{{- content | reverse +")
    with pytest.raises(UserError, match="turn begins in message 2") as caught:
        encoded(tokenizer, plain(backwards), [user("a"), bot("abc <")])
    assert "{% generation %}" in str(caught.value)


def test_only_the_last_answer(tokenizer):
    for name, template in TEMPLATES.items():
        for item in (template, plain(template)):
            (chat,) = encoded(tokenizer, item, TALK, last=True)
            expected = ANSWERS.get(name, [THOUGHT.replace("Hm.", "") + "Because\nso.<|im_end|>"])
            assert turns_of(tokenizer, [chat]) == [expected[-1:]], name


CALLS = [
    {"type": "function", "id": "1", "function": {"name": "rain", "arguments": {"at": "Oslo é"}}}
]
SPELT_CALLS = [{"type": "function", "function": {"name": "rain", "arguments": '{"at":"Oslo é"}'}}]
TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object"}}}]
RESULT = {"role": "tool", "tool_call_id": "1", "name": "rain", "content": "yes"}


def called(calls, content=None):
    return [user("Rain?"), bot(content, tool_calls=calls), RESULT, bot("Yes.")]


def test_calls_are_learned_and_results_are_not(tokenizer, caplog):
    context = Context(TOOLS)
    call = '<tool_call>\n{"name": "rain", "arguments": {"at": "Oslo é"}}\n</tool_call><|im_end|>'
    nothing = "<think>\n\n</think>\n\n"
    result = turns_of(tokenizer, encoded(tokenizer, plain(QWEN3), called(CALLS), context))
    assert result == [[nothing + call], [nothing + "Yes.<|im_end|>"]]
    result = turns_of(tokenizer, encoded(tokenizer, plain(QWEN3), called(CALLS, "Well."), context))
    assert result[0] == [nothing + "Well.\n" + call]
    result = turns_of(tokenizer, encoded(tokenizer, plain(QWEN3), called(SPELT_CALLS), context))
    assert result[0] == [nothing + call.replace('"at": ', '"at":')]
    call = '{"name": "rain", "parameters": {"at": "Oslo é"}}<|eot_id|>'
    for calls in (CALLS, SPELT_CALLS):  # tojson would encode the JSON text twice
        chat = encoded(tokenizer, plain(TEMPLATES["llama3"]), called(calls), context)
        assert turns_of(tokenizer, chat) == [[call, "Yes.<|eot_id|>"]]
        text = letters().decode(chat[0].tokens)
        assert "Given these functions" in text
        assert '"name": "rain"' in text
    result = turns_of(tokenizer, encoded(tokenizer, PLAIN, called(CALLS), context))
    assert [item.count("rain") for item in result[0]] == [1, 0]
    assert "does not use tools" not in caplog.text
    for template in (plain(TEMPLATES["zephyr"]), TEMPLATES["zephyr"]):
        with pytest.raises(UserError, match="drops the tool calls of message 2"):
            encoded(tokenizer, template, called(CALLS, ""), context)
    assert "the chat template does not use tools" in caplog.text


SHAPES = {
    "talk": TALK,
    "system": [SYSTEM, *TALK],
    "blanks": [user(" Hi "), bot("  A\n"), user("B "), bot("C")],
    "waits": TALK[:3],
    "in a row": [user("Hi"), bot("A"), bot("B")],
    "first": [bot("A"), user("Hi"), bot("B")],
    "thoughts": [user("Hi"), bot(THOUGHT + "A"), user("Why?"), bot(THOUGHT + "B")],
    "calls": called(CALLS),
    "chat calls": called(SPELT_CALLS, "Well."),
}
HISTORY = {("qwen3", shape) for shape in SHAPES}
"""Templates whose answers depend on later messages: without blocks they become several
conversations."""


@pytest.mark.parametrize("name", TEMPLATES)
def test_spans_are_those_of_transformers(tokenizer, reference, name):
    template = TEMPLATES[name].replace("%d %b %Y %H:%M:%S", "%Y")
    with (
        ChatEncoder(tokenizer, template) as actual,
        ChatEncoder(tokenizer, plain(template)) as without,
    ):
        for shape, messages in SHAPES.items():
            tools = TOOLS if "calls" in shape else None
            context = Context(tools)
            try:
                expected = reference.apply_chat_template(
                    messages,
                    tools,
                    chat_template=template,
                    return_assistant_tokens_mask=True,
                    return_dict=True,
                )
            except (jinja2.TemplateError, TypeError):
                with pytest.raises(UserError, match="the chat template"):
                    actual.encode(messages, context)
                continue
            if name == "llama3" and shape == "chat calls":
                # Transformers encodes the JSON text twice, we do not.
                assert '\\"at\\"' in reference.decode(expected["input_ids"])
                continue
            if tools and name not in ("qwen3", "llama3"):
                continue
            chat = actual.encode(messages, context)
            masks = (expected["input_ids"], expected["assistant_masks"])
            assert [masked(item) for item in chat] == [masks], shape
            if (name, shape) not in HISTORY:
                assert without.encode(messages, context) == chat, shape


def masked(chat):
    inside = {n for first, end in chat.spans for n in range(first, end)}
    return chat.tokens, [int(n in inside) for n in range(len(chat.tokens))]


def test_parts_of_text(tokenizer, reference):
    parts = [user([{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]), bot("A")]
    reads = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}"
        "{% endif %}<|im_end|>\n{% endfor %}"
    )
    expected = reference.apply_chat_template(parts, chat_template=reads, return_dict=True)[
        "input_ids"
    ]
    (chat,) = encoded(tokenizer, reads, parts)
    assert chat.tokens == expected
    # A template without parts would render a Python list.
    (chat,) = encoded(tokenizer, plain(TEMPLATES["phi"]), parts)
    assert letters().decode(chat.tokens, skip_special_tokens=False).startswith("<|user|>\nHi you<")
    answer = [{"type": "text", "text": "A "}, {"type": "text", "text": "B"}]
    (chat,) = encoded(tokenizer, reads, [bot("first"), user("Hi"), bot(answer)])
    assert turns_of(tokenizer, [chat])[0][1] == "<|im_start|>assistant\nA B<|im_end|>"
    prompts = reads + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    (chat,) = encoded(tokenizer, prompts, [user("Hi"), bot(answer)])
    assert turns_of(tokenizer, [chat]) == [["A B<|im_end|>"]]
