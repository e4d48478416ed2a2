"""Rows of published forms are read as they are: as conversations, or as plain text."""

import pytest

from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.tasks.chat import ChatTask
from llmjax.tasks.predict import worst_mistakes
from llmjax.tasks.preference import PreferenceTask
from llmjax.tasks.sequence import SequenceTask
from llmjax.tasks.split import describe, texts_of
from task_models import opened, rows_of

DECODER = ModelConfig(num_decoder_layers=2, d_model=32, num_heads=2, d_ff=64)
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}a:{% endif %}"
)
ASKED = {"role": "user", "content": "Sky?"}
BLUE = {"role": "assistant", "content": "blue"}
SYSTEM = {"role": "system", "content": "Be brief."}
LENGTH = 160


def messages(**values):
    (row,) = rows_of(values)
    return ChatTask().messages_of(row)


def turns(*pairs):
    return [{"from": sender, "value": value} for sender, value in pairs]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"messages": [ASKED, BLUE], "prompt": "ignored"}, [ASKED, BLUE]),
        ({"conversations": turns(("human", "Sky?"), ("gpt", "blue"))}, [ASKED, BLUE]),
        ({"conversations": [ASKED, BLUE]}, [ASKED, BLUE]),
        ({"messages": turns(("user", "Sky?"), ("assistant", "blue"))}, [ASKED, BLUE]),
        (
            {"conversations": turns(("human", "Sky?"), ("gpt", "blue")), "system": "Be brief."},
            [SYSTEM, ASKED, BLUE],
        ),
        ({"conversations": turns(("system", "Be brief."), ("human", "Sky?"))}, [SYSTEM, ASKED]),
        ({"instruction": "Sky?", "input": "", "output": "blue"}, [ASKED, BLUE]),
        ({"instruction": "Sky?", "output": "blue", "text": "all of it"}, [ASKED, BLUE]),
        (
            {"instruction": "Add.", "input": "2, 3", "output": "5"},
            [{"role": "user", "content": "Add.\n\n2, 3"}, {"role": "assistant", "content": "5"}],
        ),
        (
            {
                "instruction": "Sky?",
                "output": "blue",
                "system": "Be brief.",
                "history": [["a", "b"]],
            },
            [
                SYSTEM,
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                ASKED,
                BLUE,
            ],
        ),
        ({"prompt": "Sky?", "completion": "blue"}, [ASKED, BLUE]),
        ({"prompt": [SYSTEM, ASKED], "completion": [BLUE]}, [SYSTEM, ASKED, BLUE]),
        ({"prompt": [ASKED], "completion": "blue"}, [ASKED, BLUE]),
        ({"prompt": "Sky?"}, [ASKED]),
        ({"instruction": "Sky?", "output": "blue", "prompt": "### Sky?"}, [ASKED, BLUE]),
    ],
)
def test_rows_become_messages(values, expected):
    assert messages(**values) == expected


def test_calls_and_their_results():
    call = {"name": "now", "arguments": {"zone": "CET"}}
    found = messages(
        conversations=turns(
            ("human", "Late?"),
            ("function_call", '{"name": "now", "arguments": {"zone": "CET"}}'),
            ("observation", "ten"),
            ("gpt", "It is ten."),
        )
    )
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "assistant"]
    assert found[1]["tool_calls"] == [{"type": "function", "function": call}]


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        (
            {"conversations": turns(("human", "a"), ("narrator", "b"))},
            "conversations",
            "message 2 is from 'narrator', an unknown role; use one of system, human, user, gpt",
        ),
        (
            {"messages": [{"role": "asistant", "content": "b"}]},
            "messages",
            "message 1 has the unknown role 'asistant'; use one of system, developer, user",
        ),
        ({"conversations": turns(("function_call", "now()"))}, "", "message 1: is not JSON"),
        ({"conversations": turns(("function_call", "[1]"))}, "", "calls that are not objects"),
        ({"conversations": turns(("gpt", None))}, "conversations", "message 1 has no text content"),
        ({"instruction": "a", "output": ""}, "output", "is empty"),
        ({"instruction": "a", "output": "b", "history": ["c"]}, "history", "item 1 is not a pair"),
        ({"prompt": 3, "completion": "b"}, "prompt", "is the number 3, not text"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(values, column, message):
    with pytest.raises(UserError, match="table line 1") as caught:
        messages(**values)
    assert message in str(caught.value)
    assert column in str(caught.value)


def test_rows_of_several_forms_or_of_none_are_refused():
    both = {"instruction": "a", "output": "b", "prompt": "c", "completion": "d"}
    expected = "table line 1: has the columns of Alpaca .* and prompt and completion .*remove those"
    with pytest.raises(UserError, match=expected):
        messages(**both)
    with pytest.raises(UserError, match=r"has no column 'messages'; .*also read are conversations"):
        messages(text="a")


def target_text(segment):
    pairs = zip(segment.targets, segment.weights, strict=True)
    return bytes(token for token, weight in pairs if weight and token < 256).decode()


@pytest.mark.parametrize(
    ("values", "reading"),
    [
        (
            {"conversations": turns(("human", "Sky?"), ("gpt", "blue"))},
            "ShareGPT rows (conversations, system)",
        ),
        (
            {"instruction": "Sky?", "output": "blue"},
            "Alpaca rows (instruction, output, input, system, history)",
        ),
        (
            {"prompt": "Sky?", "completion": "blue"},
            "prompt and completion rows (prompt, completion)",
        ),
    ],
)
def test_only_answers_are_trained_on_and_one_line_says_how_rows_are_read(values, reading):
    rows, config = rows_of(values), ChatTask()
    task, _ = opened(config, rows, BytesTokenizer(chat_template=TEMPLATE), DECODER, LENGTH)
    (example,) = task.examples(rows)
    assert bytes(example.segments[0].tokens).decode() == "u:Sky?\na:blue"
    assert target_text(example.segments[0]) == "blue\n"
    lines = describe(config, task.metadata, 1, 0)
    assert lines[1] == f"rows read as {reading}"
    assert {"Sky?", "blue"} <= set(texts_of(config, rows))


def test_a_mixture_is_counted_and_messages_need_no_line():
    rows = rows_of({"messages": [ASKED, BLUE]}, *[{"prompt": "Sky?", "completion": "blue"}] * 2)
    reading = ChatTask().find_metadata(rows).reading
    assert reading == (
        "read as messages (column messages): 1, prompt and completion rows (prompt, completion): 2"
    )
    assert ChatTask().find_metadata(rows[:1]).reading == ""
    with pytest.raises(UserError, match="line 1, column 'output': the assistant says nothing"):
        ChatTask().find_metadata(rows_of({"instruction": "a"}))


@pytest.mark.parametrize(
    "values",
    [
        {"source": "Sky? ", "target": "blue", "instruction": "x"},
        {"prompt": "Sky? ", "completion": "blue"},
        {"instruction": "Sky? ", "input": None, "output": "blue"},
    ],
)
def test_sequences_continue_plain_text(values):
    rows, config = rows_of(values), SequenceTask()
    task, _ = opened(config, rows, BytesTokenizer(), DECODER, LENGTH)
    (example,) = task.examples(rows)
    assert bytes(example.segments[0].tokens[1:]).decode() == "Sky? blue"
    assert target_text(example.segments[0]) == "blue"
    assert task.metrics(rows, [{"text": "blue"}])["exact_match"].value == 1
    (miss,) = worst_mistakes(config, rows, [{"text": "green"}])
    assert (miss["text"], miss["truth"], miss["predicted"]) == ("Sky? ", "blue", "green")
    with pytest.raises(UserError, match="has no column 'target'"):
        config.find_metadata(rows_of({"prompt": "a"}))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": turns(("human", "Sky?")), "chosen": "blue", "rejected": "green"},
        {
            "prompt": turns(("human", "Sky?")),
            "chosen": {"from": "gpt", "value": "blue"},
            "rejected": {"from": "gpt", "value": "green"},
        },
    ],
)
def test_preferences_may_have_sharegpt_messages(row):
    rows = rows_of(row)
    task, _ = opened(PreferenceTask(), rows, BytesTokenizer(chat_template=TEMPLATE), DECODER)
    (example,) = task.examples(rows)
    assert [target_text(segment) for segment in example.segments] == ["blue\n", "green\n"]
    assert "chat template" in task.metadata.reading


def test_preferences_of_plain_text_say_so():
    rows = rows_of({"prompt": "Sky? ", "chosen": "blue", "rejected": "green"})
    reading = PreferenceTask().find_metadata(rows).reading
    assert reading == "read as plain text, without the chat template"
